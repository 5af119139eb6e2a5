"""`module:callable`, as a policy names the user's own code.

A module beside the policy file comes before one of the same name elsewhere, and may import its siblings at its top and
in the function that a policy names. Python knows one module per name and process, but two policies in two folders may
each have a `networks.py`. So a folder's modules are in `sys.modules` under their plain names only while one of them is
imported or called, and otherwise on a shelf there, from which the next import from the same folder takes them again,
unless a file of theirs was edited since. They are compiled from their source each time, whose digest stands for them:
what Python keeps in `__pycache__` may be of another source. Not safe while other threads import: for as long as it
takes, they find this folder first, too.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.machinery import (
    SOURCE_SUFFIXES,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
    SourcelessFileLoader,
    all_suffixes,
)
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from robustcheck.errors import UserCodeError
from robustcheck.words import did_you_mean, last_line, listed

_MADE_FROM = "_robustcheck_made_from"  # kept on a module's spec, which is a new one after a reload


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


def module_in_place(reference: str, folder: Path) -> AbstractContextManager[None]:
    """While it is entered, the module of `module:callable` and its siblings can be found, as at their import.

    To be entered while the callable runs: what it pickles, for processes that it starts, is found by its name only.
    """
    return modules_beside(folder, reference.partition(":")[0].partition(".")[0])


def _module(name: str, reference: str, folder: Path) -> ModuleType:
    try:
        with module_in_place(reference, folder):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UserCodeError(f"{reference!r}: {name} cannot be imported: {last_line(error)}") from None
        beside = sorted(_own_names(folder))
        raise UserCodeError(
            f"{reference!r}: no module {name!r} is installed or lies beside the policy; beside it: {listed(beside)}"
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
    """Compiles the source itself: a cache beside it may hold other code, and claim that it need not be checked."""

    sha256 = ""  # of what was compiled

    def get_code(self, fullname: str) -> CodeType:
        """Of a module."""
        path = self.get_filename(fullname)
        source = self.get_data(path)
        self.sha256 = hashlib.sha256(source).hexdigest()
        return self.source_to_code(source, path)


@contextmanager
def modules_beside(folder: Path, wanted: str | None = None) -> Iterator[None]:
    """A folder first on `sys.path`, its modules under their plain names; afterwards both are as they were before.

    Args:
        folder: the policy file's.
        wanted: the top-level name that will be imported, which may be a folder of modules without `__init__.py`; None
            if that is not known.
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
    waiting, met = shelf(home), _users(home)
    users = {name: made_from(module) for name, module in before.items() if name not in hidden}
    # What was imported from a file that was edited, or from a module that was reloaded, is imported anew.
    edited = any(has_changed(module) for module in waiting.values())
    if edited or not users.keys().isdisjoint(waiting) or any(met.get(name, now) != now for name, now in users.items()):
        waiting.clear()
    met.update(users)
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
                made_from(module)
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
    waiting: dict[str, ModuleType] = _kept_for(home).setdefault("modules", {})
    return waiting


def _users(home: Path) -> dict[str, str]:
    """What the folder's modules that the user's own code had imported were made from, by name."""
    met: dict[str, str] = _kept_for(home).setdefault("users", {})
    return met


def _kept_for(home: Path) -> dict[str, Any]:
    name = "_robustcheck_beside_" + hashlib.sha256(str(home).encode(errors="surrogateescape")).hexdigest()[:16]
    return sys.modules.setdefault(name, ModuleType(name)).__dict__


def has_changed(module: ModuleType) -> bool:
    """Whether a module's file is not what the module was made from, or is gone."""
    content = _content(module)
    return made_from(module) != ("" if content is None else hashlib.sha256(content).hexdigest())


def made_from(module: ModuleType) -> str:
    """The sha256 of a module's file as compiled; for what Python itself imported, as it was when first met here.

    Empty if there is no such file, or if it is known only that the file was another.
    """
    spec = getattr(module, "__spec__", None)
    if isinstance(loader := getattr(spec, "loader", None), _SourceLoader):
        return loader.sha256
    known: str = getattr(spec, _MADE_FROM, "")
    content = None if known else _content(module)
    if content is not None and not (spec is not None and _is_of_another(module, spec, content)):
        known = hashlib.sha256(content).hexdigest()
        if spec is not None:
            setattr(spec, _MADE_FROM, known)
    return known


def _content(module: ModuleType) -> bytes | None:
    try:
        return Path(str(module.__file__)).read_bytes()
    except (AttributeError, OSError, ValueError):  # a folder, or from an archive
        return None


def _is_of_another(module: ModuleType, spec: ModuleSpec, source: bytes) -> bool:
    """Whether the code of a module that Python imported is not that of a source; Python does not say what it compiled.

    The whole code is in Python's cache, if that was written when the module was imported; that of functions is in the
    module.
    """
    if type(spec.loader) is not SourceFileLoader:  # pytest's, say, compiles something else
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, str(module.__file__), "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return True
    parts, waiting = set[CodeType](), [code]
    while waiting:
        parts.add(part := waiting.pop())
        waiting += [constant for constant in part.co_consts if isinstance(constant, CodeType)]
    holders: list[Mapping[str, object]] = [vars(module)]
    holders += [vars(one) for one in holders[0].values() if isinstance(one, type) and one.__module__ == module.__name__]
    held = {one.__code__ for holder in holders for one in holder.values() if isinstance(one, FunctionType)}
    own = {one for one in held if one.co_filename == code.co_filename}
    return _cached(spec) not in (None, code) or not own <= parts


def _cached(spec: ModuleSpec) -> CodeType | None:
    """The code of a module in Python's cache, if Python writes that whenever it imports the module anew."""
    if spec.cached is None or sys.dont_write_bytecode or not os.access(Path(spec.cached).parent, os.W_OK):
        return None
    reader = SourcelessFileLoader(spec.name, spec.cached)
    try:
        by_time = reader.get_data(spec.cached).startswith(MAGIC_NUMBER + bytes(4))
        return reader.get_code(spec.name) if by_time else None
    except (OSError, ImportError, EOFError, ValueError, TypeError):  # there is none, or half of one
        return None


def _own_names(folder: Path) -> set[str]:
    """The names of the folder's modules and packages, without those that nobody can mean to replace."""
    found = set[str]()
    for suffix in all_suffixes():
        found.update(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
        found.update(path.parent.name for path in folder.glob(f"*/__init__{suffix}"))
    names = {name for name in found if name.isidentifier() and not name.startswith("__")}
    return names - set(sys.stdlib_module_names) - {__package__}


def _loaded(tops: set[str]) -> dict[str, ModuleType]:
    """The loaded modules and submodules of these top-level names."""
    return {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in tops}
