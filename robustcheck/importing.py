"""`module:callable`, as a policy names its user's own code.

A module beside the policy file comes before one of the same name elsewhere, and may import its siblings at its top.
Python knows one module a name and process; two policies in two folders may each have a `networks.py`. So a folder's
modules are in `sys.modules` under their plain names only while one of them is imported, and afterwards on a shelf
there, from which the next import from the same folder takes them again. Not safe while other threads import.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from robustcheck.errors import UserCodeError
from robustcheck.words import did_you_mean, last_line, listed


def import_callable(reference: str, *, folder: Path) -> Callable[..., Any]:
    """What `module:callable` names; the callable may be dotted (`module:Class.method`).

    Args:
        reference: as the policy says it.
        folder: the policy file's folder.

    Raises:
        UserCodeError: no such module or attribute, not callable, or the module itself fails.
    """
    module_name, colon, attributes = reference.partition(":")
    words = [*module_name.split("."), *attributes.split(".")]
    if not colon or not all(word.isidentifier() for word in words):
        raise UserCodeError(f"{reference!r} is not of the form module:callable, such as networks:resnet")
    found: Any = _module(module_name, reference, folder)
    for name in attributes.split("."):
        if not hasattr(found, name):
            known = [word for word in vars(found) if not word.startswith("_")] if hasattr(found, "__dict__") else []
            raise UserCodeError(f"{reference!r}: {module_name} has no {attributes!r}{did_you_mean(name, known)}")
        found = getattr(found, name)
    if not callable(found):
        raise UserCodeError(f"{reference!r} is not callable: it is of type {type(found).__name__}")
    result: Callable[..., Any] = found
    return result


def own_sources(function: Callable[..., Any], *, folder: Path) -> list[Path]:
    """The files beside the policy that a callable's behaviour is written in: its module, and siblings that it uses."""
    home, files = folder.resolve(), set[Path]()
    modules = _shelf(home)
    waiting = [getattr(function, "__module__", None)]
    while waiting:
        module = modules.get(str(waiting.pop()))
        place = getattr(module, "__file__", None)
        if module is None or place is None or Path(place).resolve() in files:
            continue
        files.add(Path(place).resolve())
        waiting += [
            value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            for value in vars(module).values()
        ]
    return sorted(files)


def _module(name: str, reference: str, folder: Path) -> ModuleType:
    try:
        with modules_beside(folder, name.partition(".")[0]):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UserCodeError(f"{reference!r}: {name} cannot be imported: {last_line(error)}") from None
        beside = sorted(_own_names(folder))
        raise UserCodeError(
            f"{reference!r}: no module {name!r} is installed or lies beside the policy; there: {listed(beside)}"
            f"{did_you_mean(name, beside)}"
        ) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's module may raise anything
        raise UserCodeError(f"{reference!r}: {name} cannot be imported: {last_line(error)}") from None


@contextmanager
def modules_beside(folder: Path, wanted: str | None = None) -> Iterator[None]:
    """A folder first on `sys.path`, its modules under their plain names; both are as they were afterwards.

    Args:
        folder: the policy file's.
        wanted: the top-level name that will be imported, which may be a folder of modules without `__init__.py`; None:
            nobody knows which.
    """
    home = folder.resolve()
    own = _own_names(home)
    for top in {path.parent.name for path in home.glob("*/*.py")} if wanted is None else {wanted}:
        if (home / top).is_dir() and getattr(sys.modules.get(top), "__file__", None) is None:
            own.add(top)
    before = _loaded(own)
    hidden = {name: module for name, module in before.items() if not _lies_beside(module, name, home)}
    for name in hidden:
        del sys.modules[name]
    shelf = _shelf(home)
    sys.modules.update({name: module for name, module in shelf.items() if name not in sys.modules})
    sys.path.insert(0, str(home))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(home))
        for name, module in _loaded(own).items():
            if _lies_beside(module, name, home) and before.get(name) is not module:
                shelf[name] = sys.modules.pop(name)
        sys.modules.update(hidden)


def _own_names(folder: Path) -> set[str]:
    """The names of the folder's modules and packages, less those that nobody can mean to replace."""
    files = [*folder.glob("*.py"), *(path.parent for path in folder.glob("*/__init__.py"))]
    names = {path.stem for path in files if path.stem.isidentifier() and not path.stem.startswith("__")}
    return names - set(sys.stdlib_module_names) - {__package__}


def _loaded(tops: set[str]) -> dict[str, ModuleType]:
    """The loaded modules and submodules of these top-level names."""
    return {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in tops}


def _lies_beside(module: ModuleType, name: str, home: Path) -> bool:
    top = home / name.partition(".")[0]
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    paths = [Path(place).resolve() for place in places if place]
    return any(path == top.with_suffix(".py") or path.is_relative_to(top) for path in paths)


def _shelf(home: Path) -> dict[str, ModuleType]:
    """Where a folder's modules wait between imports."""
    name = "_robustcheck_beside_" + hashlib.sha256(str(home).encode(errors="surrogateescape")).hexdigest()[:16]
    shelf: dict[str, ModuleType] = sys.modules.setdefault(name, ModuleType(name)).__dict__.setdefault("modules", {})
    return shelf
