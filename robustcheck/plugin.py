"""The pytest plugin: its options, and the policies that a run asks for.

Importing this file costs a pytest run that does not ask for robustcheck nothing but pytest itself: the rest of the
plugin (`gate_hooks`) is imported once a policy was named.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import suppress
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
        help="run the gates of a robustcheck policy (YAML); each gate is a test. To run one gate: "
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
    config.addinivalue_line("markers", "robustcheck: a gate of a policy (every gate has it; do not set it by hand)")
    if config.option.help:
        return  # parsing once more would print pytest 8's help, and end there
    start = config.invocation_params.dir
    _refuse_gates(named_options, start)
    if not named_options and not ini_key:
        _refuse_policies_among(_files(config.args, start))
        return
    paths, folder, typed = _asked(config, config.option)
    _refuse_policies_among(_files(config.args, start) - set(paths))
    from robustcheck.gate_hooks import GatePlugin, relative_to_start
    from robustcheck.gate_items import warnings_stay_warnings

    with warnings_stay_warnings():
        policies = _loaded({path: relative_to_start(path, start) for path in paths}, config)
    plugin = GatePlugin(config, policies, folder)
    # Without a path on the command line pytest would also collect the project's own tests; naming a policy is a path.
    alone = typed and config.args_source is not pytest.Config.ArgsSource.ARGS
    arguments = [] if alone else list(config.args)
    named = _files(arguments, start)
    # Not those in named folders: pytest 8, given a folder and a file in it, collects the file alone.
    added = [path for path in policies if named.isdisjoint([path, *path.parents])]
    config.args = arguments + [_argument(path, start) for path in added]
    config.pluginmanager.register(plugin, "robustcheck-gates")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Remove earlier reports if a `conftest.py` ends a run before it begins: a green one would outlive it."""
    try:
        return (yield)
    except BaseException:  # it may skip, or exit
        with suppress(Exception):  # pytest has to report why it ends, not this
            _remove_earlier(early_config, early_config.known_args_namespace)
        raise


def _remove_earlier(config: pytest.Config, options: argparse.Namespace) -> None:
    """Remove earlier reports in a run that would write new ones but cannot begin."""
    if not (options.robustcheck or config.getini("robustcheck")) or options.help or options.version:
        return
    paths, folder, _ = _asked(config, options)
    from robustcheck.gate_hooks import writes_reports

    # A path at which there is nothing is a typing slip, which must not cost a report.
    if all(map(_is_there, [folder, *paths])) and writes_reports(config, options):
        from robustcheck.report.output import try_to_remove_earlier

        try_to_remove_earlier(folder, list(paths))


def _asked(config: pytest.Config, options: argparse.Namespace) -> tuple[list[Path], Path, bool]:
    """Which policies are to be run, where their reports go, and whether a policy was typed.

    Args:
        config: pytest's.
        options: what the command line says, with what addopts adds to it.
    """
    start = config.invocation_params.dir
    typed = config._parser.parse_known_args(list(config.invocation_params.args))
    asked = [start / path for path in typed.robustcheck]
    # Paths that addopts adds to every run start at the ini file, as do those of the ini key.
    ini_folder = config.inipath.parent if config.inipath else start
    configured = [Path(path) for path in config.getini("robustcheck")]
    configured += [ini_folder / path for path in options.robustcheck if path not in typed.robustcheck]
    paths = list(dict.fromkeys(path.resolve() for path in asked + configured))
    default = start if asked else ini_folder
    return paths, _output_folder(config, options, typed.robustcheck_output, default), bool(asked)


def _output_folder(config: pytest.Config, options: argparse.Namespace, typed: str | None, default: Path) -> Path:
    """Where reports go: a typed path starts where pytest was started, an ini file's path at that file.

    Args:
        config: pytest's.
        options: of the command line and addopts.
        typed: what the command line says, if it does.
        default: the folder in which reports lie if no other is given.
    """
    start = config.invocation_params.dir
    if typed:
        return start / typed
    keys = [options.robustcheck_output] + [config.getini(f"robustcheck{sign}output") for sign in "_-"]
    configured = next((str(folder) for folder in keys if folder), None)
    return (config.inipath.parent if config.inipath else start) / configured if configured else default / _REPORTS


def _argument(path: Path, start: Path) -> str:
    """A policy as pytest's argument: its whole path, or the path from `start` if pytest would read tests in that."""
    ways = [str(path)] + ([os.path.relpath(path, start)] if path.drive == start.drive else [])
    way = next((way for way in ways if "[" not in way and "::" not in way), None)
    if way is None:
        raise pytest.UsageError(
            f"{path}: pytest reads [ and :: in a path as names of tests; start it in the folder of the policy, or use "
            "`robustcheck run`"
        )
    return way


def _files(arguments: Sequence[str], start: Path) -> set[Path]:
    """The files and folders in which pytest's arguments name tests."""
    return {(start / argument.partition("::")[0].partition("[")[0]).resolve() for argument in arguments}


def _is_there(path: Path) -> bool:
    """Whether something is at a path; nothing is where its name is longer than any that a file has."""
    try:
        return path.exists()
    except OSError:
        return False


def _refuse_gates(named: Sequence[str], start: Path) -> None:
    """Raise a usage error where the option names a gate, `policy.yaml::sticker`: the option is for policies."""
    for text in named:
        policy, gate = text.partition("::")[::2]
        if gate and not _is_there(start / text):
            # An ini file's options start at its folder, pytest's arguments where pytest was started.
            here = _is_there(start / policy)
            told = f"; to run this gate alone: --robustcheck {shlex.quote(policy)} {shlex.quote(text)}" if here else ""
            raise pytest.UsageError(f"--robustcheck {text}: names a gate, but takes a policy{told}")


def _refuse_policies_among(paths: Collection[Path]) -> None:
    """Raise a usage error if one of these files, in which pytest knows no tests, is a policy.

    With `--robustcheck policies/*.yaml` the shell gives the first of them to the option, and the others to pytest.
    """
    for path in sorted(paths):
        if path.suffix in (".yaml", ".yml") and _is_there(path) and path.is_file():
            with path.open("rb") as file:
                beginning = file.read(_BEGINNING)
            if re.search(rb"^robustcheck\s*:", beginning, flags=re.MULTILINE):
                raise pytest.UsageError(f"{path} is a policy: put --robustcheck before it, and before each other one")


def _loaded(paths: Mapping[Path, str], config: pytest.Config) -> dict[Path, Policy]:
    """The policies at these paths, mapped to what messages call them; all mistakes are reported at once.

    If there are any, earlier reports are removed all the same.
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
        _remove_earlier(config, config.option)
        raise pytest.UsageError("\n".join(mistakes))
    return policies
