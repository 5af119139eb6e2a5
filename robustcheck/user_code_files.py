"""Which files contain the code that a policy names: they are part of what is judged, and have a digest."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

from robustcheck.errors import UserCodeError
from robustcheck.importing import has_changed, lies_beside, made_from, shelf

_INSTALLED = {"site-packages", "dist-packages"}  # folders of what has a version


def written_in(reference: str, function: Callable[..., Any]) -> list[str]:
    """The modules that a callable is written in: the one that `module:callable` names, and its own."""
    while isinstance(function, partial):
        function = function.func
    return [reference.partition(":")[0], str(getattr(function, "__module__", None))]


def own_sources(modules: Iterable[str], *, folder: Path) -> dict[Path, str]:
    """The files beside the policy that modules of these names, and the siblings that they use, are written in.

    Returns:
        The sha256 of each file as it was compiled.

    Raises:
        UserCodeError: the user's own code has imported one of them, and it was edited since.
    """
    home = folder.resolve()
    files, _ = _followed(modules, home, lambda name, module: lies_beside(module, name, home))
    return files


def all_sources(modules: Iterable[str], *, folder: Path) -> tuple[dict[Path, str], list[str]]:
    """The files that modules of these names, and all that they use, are written in; the versions of what is installed.

    An editable checkout of a package has both.

    Returns:
        The sha256 of each file, of what was compiled; and the versions.

    Raises:
        UserCodeError: one of them was edited since it was imported.
    """
    packages = packages_distributions()
    files, names = _followed(modules, folder.resolve(), lambda name, module: not _is_installed(name, module, packages))
    used = {package for name in names for package in packages.get(name.partition(".")[0], [])}
    return files, [f"{package} {version(package)}" for package in sorted(used)]


def _followed(
    modules: Iterable[str], home: Path, wanted: Callable[[str, ModuleType], bool]
) -> tuple[dict[Path, str], set[str]]:
    """The files of modules of these names and of those that they import, if they are wanted; and all names met."""
    beside = shelf(home)
    waiting = list(modules)
    met = set[str]()
    files = dict[Path, str]()
    while waiting:
        if (name := waiting.pop()) in met:
            continue
        met.add(name)
        waiting.append(name.rpartition(".")[0])  # the package is run, too
        module = beside.get(name) or sys.modules.get(name)
        place = getattr(module, "__file__", None)
        # A module may claim to be from a file that does not exist, such as one in an archive.
        if module is not None and place is not None and wanted(name, module) and Path(place).is_file():
            if has_changed(module):
                raise UserCodeError(
                    f"{Path(place).name} changed since it was imported; restart the kernel, or reload it"
                )
            files[Path(place).resolve()] = made_from(module)
            waiting += _imported(Path(place), module)
    return dict(sorted(files.items())), met


def _imported(file: Path, module: ModuleType) -> Iterator[str]:
    """The names of all that a module's file imports, wherever in it: modules, and what may be one."""
    package = module.__package__ or ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            statements = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # compiled: what it holds tells most of what it imports
        for value in vars(module).values():
            yield str(getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", None))
        return
    for one in statements:
        if isinstance(one, ast.Import):
            yield from (alias.name for alias in one.names)
        elif isinstance(one, ast.ImportFrom):
            above = package.rsplit(".", one.level - 1)[0] if one.level else ""
            base = ".".join(part for part in (above, one.module) if part)
            yield from (f"{base}.{alias.name}" for alias in one.names)


def _is_installed(name: str, module: ModuleType, packages: Mapping[str, Sequence[str]]) -> bool:
    """Whether a version, a package's or Python's, says what is in a module."""
    top, place = name.partition(".")[0], Path(str(module.__file__)).resolve()
    versioned = top == __package__ or (top in packages and not _INSTALLED.isdisjoint(place.parts))
    return versioned or top in sys.stdlib_module_names
