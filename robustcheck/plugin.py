"""The pytest plugin: its options, and the policies that a run asks for.

Importing this file costs a pytest run that does not ask for robustcheck nothing but pytest itself: the rest of the
plugin (`gate_hooks`) is imported once a policy was named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from robustcheck.policy import Policy


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and ini keys."""
    group = parser.getgroup("robustcheck", "adversarial robustness gates (robustcheck)")
    group.addoption(
        "--robustcheck",
        metavar="POLICY",
        action="append",
        default=[],
        help="run the gates of a robustcheck policy (YAML) as tests POLICY::GATE-ID; may be given more than once",
    )
    group.addoption(
        "--robustcheck-output",
        metavar="DIR",
        default=None,
        help="folder for junit.xml, report.json, report.html and counterexamples/ (default: robustcheck-report)",
    )
    parser.addini("robustcheck", "robustcheck policies to run in every pytest run", type="paths", default=[])
    for name in ("robustcheck_output", "robustcheck-output"):
        parser.addini(name, "folder for robustcheck's reports (default: robustcheck-report)", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Load the policies that were asked for; without one, nothing else happens."""
    named_options: list[str] = config.getoption("robustcheck")
    ini_key = [Path(path) for path in config.getini("robustcheck")]
    if config.option.help or (not named_options and not ini_key):
        return  # parsing once more would print pytest 8's help, and end there
    start = config.invocation_params.dir
    typed: list[str] = config._parser.parse_known_args(list(config.invocation_params.args)).robustcheck
    asked = [start / path for path in typed]
    # Paths that addopts adds to every run are seen from the ini file, as those of the ini key are.
    ini_folder = config.inipath.parent if config.inipath else start
    standing = ini_key + [ini_folder / path for path in named_options if path not in typed]
    from robustcheck.gate_hooks import GatePlugin, shown
    from robustcheck.gate_items import warnings_stay_warnings

    with warnings_stay_warnings():
        policies = _loaded({path.resolve(): shown(path.resolve(), start) for path in asked + standing})
    # Without a path on the command line pytest would also collect the project's own tests; naming a policy is a path.
    alone = asked and config.args_source is not pytest.Config.ArgsSource.ARGS
    arguments = [] if alone else list(config.args)
    named = {(start / argument.partition("::")[0].partition("[")[0]).resolve() for argument in arguments}
    # Not those in named folders: pytest 8, given a folder and a file in it, collects the file alone.
    config.args = arguments + [str(path) for path in policies if named.isdisjoint([path, *path.parents])]
    config.pluginmanager.register(GatePlugin(config, policies), "robustcheck-gates")


def _loaded(paths: Mapping[Path, str]) -> dict[Path, Policy]:
    """The policies at these paths, which messages call by what each is mapped to; all mistakes are told at once."""
    from robustcheck.errors import PolicyError
    from robustcheck.policy import load_policy

    policies: dict[Path, Policy] = {}
    mistakes: list[str] = []
    for path, shown in paths.items():
        try:
            policies[path] = load_policy(path, shown=shown)
        except PolicyError as error:
            mistakes.append(str(error))
    if mistakes:
        raise pytest.UsageError("\n".join(mistakes))
    return policies
