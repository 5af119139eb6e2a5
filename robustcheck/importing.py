"""`module:callable`, as a policy names its user's own code.

A module beside the policy file comes before one of the same name elsewhere, and may import its siblings at its top.
Python knows one module a name and process; two policies in two folders may each have a `networks.py`. So a folder's
modules are in `sys.modules` under their plain names only while one of them is imported, and afterwards on a shelf
there, from which the next import from the same folder takes them again. They are compiled from their source each time,
whose digest stands for them: what Python keeps in `__pycache__` may be of another source. Not safe while other threads
import.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, PathFinder, SourceFileLoader, all_suffixes
from pathlib import Path
from types import CodeType, ModuleType
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


class _FromSource:
    """Finds modules that are written in Python beside the policy, and the standard library's elsewhere."""

    def __init__(self, home: Path, own: set[str]) -> None:
        self._home, self._own = home, own

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """A module's, or a submodule's, whose package lies at `path`."""
        if path is None and name in sys.stdlib_module_names:
            return PathFinder.find_spec(name, [place for place in sys.path if place != str(self._home)])
        places = [str(self._home)] if path is None else path
        for place in places if name.partition(".")[0] in self._own else ():
            spec = FileFinder(place, (_SourceLoader, SOURCE_SUFFIXES)).find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
        return None


class _SourceLoader(SourceFileLoader):
    """Compiles the source itself: a cache beside it may hold other code, and say that it need not be compared."""

    def get_code(self, fullname: str) -> CodeType:
        """Of a module."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


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
    folders = {path.parent.name for path in home.glob("*/*.py")} if wanted is None else {wanted}
    for top in folders - set(sys.stdlib_module_names):
        if (home / top).is_dir() and getattr(sys.modules.get(top), "__file__", None) is None:
            own.add(top)
    before = _loaded(own)
    hidden = {name: module for name, module in before.items() if not lies_beside(module, name, home)}
    for name in hidden:
        del sys.modules[name]
    waiting = shelf(home)
    sys.modules.update({name: module for name, module in waiting.items() if name not in sys.modules})
    sys.path.insert(0, str(home))
    finder = _FromSource(home, own)
    sys.meta_path.insert(0, finder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.meta_path.remove(finder)
        with suppress(ValueError):
            sys.path.remove(str(home))
        for name, module in _loaded(own).items():
            if lies_beside(module, name, home) and before.get(name) is not module:
                waiting[name] = sys.modules.pop(name)
        sys.modules.update(hidden)


def lies_beside(module: ModuleType, name: str, home: Path) -> bool:
    """Whether a module of this name is one of a folder's own."""
    top = home / name.partition(".")[0]
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    paths = [Path(place) for place in places if place]
    # A module may be a link out of the folder: it lies where it was found.
    paths = [path.parent.resolve() / path.name for path in paths] + [path.resolve() for path in paths]
    return any(path.parent == home or path.is_relative_to(top) for path in paths)


def shelf(home: Path) -> dict[str, ModuleType]:
    """Where a folder's modules wait between imports."""
    name = "_robustcheck_beside_" + hashlib.sha256(str(home).encode(errors="surrogateescape")).hexdigest()[:16]
    waiting: dict[str, ModuleType] = sys.modules.setdefault(name, ModuleType(name)).__dict__.setdefault("modules", {})
    return waiting


def _own_names(folder: Path) -> set[str]:
    """The names of the folder's modules and packages, less those that nobody can mean to replace."""
    found = set[str]()
    for suffix in all_suffixes():
        found.update(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
        found.update(path.parent.name for path in folder.glob(f"*/__init__{suffix}"))
    names = {name for name in found if name.isidentifier() and not name.startswith("__")}
    return names - set(sys.stdlib_module_names) - {__package__}


def _loaded(tops: set[str]) -> dict[str, ModuleType]:
    """The loaded modules and submodules of these top-level names."""
    return {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in tops}
