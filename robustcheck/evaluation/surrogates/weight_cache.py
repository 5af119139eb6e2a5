"""Keeps trained weights: what took minutes once is read the next time, by every process that wants the same."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from robustcheck.errors import CandidateError
from robustcheck.whole_files import leftovers, replacing

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def kept(name: str, make: Callable[[], dict[str, torch.Tensor]]) -> Path:
    """The file of a state dict; it is made unless it is there, whole, and only this user's.

    If several processes want it at once, one makes it and the others wait.

    Args:
        name: stands for everything that decides the weights.
        make: makes them; if it raises, the error passes through and no file is left.

    Raises:
        CandidateError: the folder cannot be used, or is not this user's.
    """
    folder = _folder()
    path = folder / f"{name}.safetensors"
    with _locked(folder, name) as private:
        if not (_is_own(path, private=private) and _is_whole(path)):
            if path.is_dir() and not path.is_symlink():
                raise CandidateError(f"trained weights cannot be kept: {path} is a folder; delete it")
            weights = make()
            for left in leftovers(path):  # nobody else writes there: this process has the lock
                with suppress(OSError):
                    left.unlink()
            with _kept_in(folder), replacing(path) as part:
                save_file(weights, part, metadata={"sha256": _digest(weights)})
                with suppress(OSError):  # a disk without modes
                    part.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return path


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[bool]:
    """Lock a name in the folder; gives whether the folder's mode can keep others out."""
    lock = FileLock(folder / f"{name}.lock")
    with _kept_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        private = _make_own(folder)
        try:
            lock.acquire()
        except NotImplementedError as error:  # filelock's word for it
            raise OSError("this disk has no locks") from error
    try:
        yield private
    finally:
        lock.release()


def _folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if not cache.is_absolute():  # the XDG Base Directory Specification has such a value ignored
            cache = Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as containers have
        raise CandidateError(
            "trained weights cannot be kept: there is no home folder; set XDG_CACHE_HOME to a folder that "
            "can be written"
        ) from None
    return cache / "robustcheck" / "surrogates"


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Turn errors with files, not those of training, into a sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CandidateError(
            f"trained weights cannot be kept in {folder}: {reason}; set XDG_CACHE_HOME to a folder of your own "
            "that can be written"
        ) from error


def _make_own(folder: Path) -> bool:
    """Let nobody else put files there: weights that others made would be taken for those that were trained here.

    Returns:
        Whether its mode says so. Other systems' disks give everything one mode, whatever is asked; there the owner
        counts.
    """
    if not hasattr(os, "getuid"):
        return False
    if folder.stat().st_uid != os.getuid():
        raise OSError("it is another user's, who could have put other weights there")
    if folder.stat().st_mode & _OTHERS_MAY_WRITE:
        with suppress(OSError):
            folder.chmod(stat.S_IRWXU)
    return not folder.stat().st_mode & _OTHERS_MAY_WRITE


def _is_own(path: Path, *, private: bool) -> bool:
    """Whether a file is there that only this user can have written; `private`: its mode has to say so."""
    try:
        found = path.lstat()
    except OSError:
        return False
    own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return stat.S_ISREG(found.st_mode) and own and not (private and found.st_mode & _OTHERS_MAY_WRITE)


def _is_whole(path: Path) -> bool:
    """Whether a file holds what was once written to it; a machine that lost power may have left less."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return metadata.get("sha256") == _digest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        return False


def _digest(weights: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(save(weights)).hexdigest()
