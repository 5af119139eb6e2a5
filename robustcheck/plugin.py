"""The pytest plugin: its options, and the policies that a run asks for.

Importing this file costs a pytest run that does not ask for robustcheck nothing but pytest itself: the rest of the
plugin (`gate_hooks`) is imported once a policy was named.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from robustcheck.policy import Policy

_REPORTS = "robustcheck-report"
_BEGINNING = 65536  # bytes of a file


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and ini keys."""
    group = parser.getgroup("robustcheck", "adversarial robustness gates (robustcheck)")
    group.addoption(
        "--robustcheck",
        metavar="POLICY",
        action="append",
        default=[],
        help="run the gates of a robustcheck policy (YAML); each gate is a test. One gate alone: "
        "--robustcheck policy.yaml 'policy.yaml::GATE-ID'. May be given more than once",
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
    config.addinivalue_line("markers", "robustcheck: a gate of a policy (given to each; not to be set by hand)")
    if config.option.help:
        return  # parsing once more would print pytest 8's help, and end there
    start = config.invocation_params.dir
    _refuse_gates(named_options, start)
    if not named_options and not ini_key:
        _refuse_policies_among(_files(config.args, start))
        return
    typed = config._parser.parse_known_args(list(config.invocation_params.args))
    asked = [start / path for path in typed.robustcheck]
    # Paths that addopts adds to every run are seen from the ini file, as those of the ini key are.
    ini_folder = config.inipath.parent if config.inipath else start
    configured = ini_key + [ini_folder / path for path in named_options if path not in typed.robustcheck]
    paths = {path.resolve(): path for path in asked + configured}
    _refuse_policies_among(_files(config.args, start) - paths.keys())
    from robustcheck.gate_hooks import GatePlugin, relative_to_start
    from robustcheck.gate_items import warnings_stay_warnings

    folder = _output_folder(config, typed.robustcheck_output, start if asked else ini_folder)
    with warnings_stay_warnings():
        policies = _loaded({path: relative_to_start(path, start) for path in paths}, config, folder)
    # Without a path on the command line pytest would also collect the project's own tests; naming a policy is a path.
    alone = asked and config.args_source is not pytest.Config.ArgsSource.ARGS
    arguments = [] if alone else list(config.args)
    named = _files(arguments, start)
    # Not those in named folders: pytest 8, given a folder and a file in it, collects the file alone.
    config.args = arguments + [str(path) for path in policies if named.isdisjoint([path, *path.parents])]
    config.pluginmanager.register(GatePlugin(config, policies, folder), "robustcheck-gates")


def _output_folder(config: pytest.Config, typed: str | None, default: Path) -> Path:
    """Where reports go: what was typed is seen from where pytest was started, an ini file's from that file.

    Args:
        config: pytest's.
        typed: what the command line says, if it does.
        default: the folder in which reports lie if nobody says where.
    """
    start = config.invocation_params.dir
    if typed:
        return start / typed
    keys = [config.getoption("robustcheck_output")] + [config.getini(f"robustcheck{sign}output") for sign in "_-"]
    configured = next((str(folder) for folder in keys if folder), None)
    return (config.inipath.parent if config.inipath else start) / configured if configured else default / _REPORTS


def _files(arguments: Sequence[str], start: Path) -> set[Path]:
    """The files and folders in which pytest's arguments name tests."""
    return {(start / argument.partition("::")[0].partition("[")[0]).resolve() for argument in arguments}


def _refuse_gates(named: Sequence[str], start: Path) -> None:
    """Raise a usage error where the option names a gate, `policy.yaml::sticker`: the option is for policies."""
    for text in named:
        policy, gate = text.partition("::")[::2]
        if gate and not (start / text).exists():
            # Options of an ini file start at its folder, and what pytest is given where it was started.
            here = (start / policy).exists()
            told = f"; this gate alone: --robustcheck {shlex.quote(policy)} {shlex.quote(text)}" if here else ""
            raise pytest.UsageError(f"--robustcheck {text}: names a gate, and takes a policy{told}")


def _refuse_policies_among(paths: Collection[Path]) -> None:
    """Raise a usage error if one of these files, which pytest knows no tests in, is a policy.

    With `--robustcheck policies/*.yaml` the shell gives the option the first of them, and pytest the others.
    """
    for path in sorted(paths):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            with path.open("rb") as file:
                beginning = file.read(_BEGINNING)
            if re.search(rb"^robustcheck\s*:", beginning, flags=re.MULTILINE):
                raise pytest.UsageError(f"{path} is a policy: say --robustcheck before it, and before each other one")


def _loaded(paths: Mapping[Path, str], config: pytest.Config, folder: Path) -> dict[Path, Policy]:
    """The policies at these paths, which messages call by what each is mapped to; all mistakes are told at once.

    Where there are any, earlier reports in `folder` are taken away all the same.
    """
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
        from robustcheck.gate_hooks import writes_reports

        # A path at which there is nothing is a slip of whoever typed it, and may cost them no report.
        if folder.exists() and all(path.exists() for path in paths) and writes_reports(config):
            from robustcheck.report.output import try_to_remove_earlier

            try_to_remove_earlier(folder, list(paths))
        raise pytest.UsageError("\n".join(mistakes))
    return policies
