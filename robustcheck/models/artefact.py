"""The bytes of a candidate: which files it consists of, one digest over all of them, and archives checked."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from robustcheck import resources
from robustcheck.errors import CandidateError
from robustcheck.results import FileInfo
from robustcheck.words import shown

_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others are unpacked without a limit on what comes out
_ZIP = b"PK"
_OTHERS = (".ts", ".pt2", ".safetensors")  # whose loaders check how their files begin
_SLACK_BYTES = 64 * 1024 * 1024
PICKLE_SLACK_BYTES = 1024 * 1024  # each of which may come to some hundred when it is unpickled


def digest(files: Sequence[Path], folder: Path) -> tuple[str, tuple[FileInfo, ...]]:
    """Digest files in order.

    Returns:
        One sha256 over every file's relative name and content, and a line for each file.
    """
    whole = hashlib.sha256()
    lines = []
    for file in files:
        try:
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise CandidateError(f"{file.name} cannot be read: {error.strerror or error}") from None
        name = Path(os.path.relpath(file, folder)).as_posix()
        whole.update(f"{name}\0{content}\n".encode())
        lines.append(FileInfo(path=name, sha256=content, bytes=file.stat().st_size))
    return whole.hexdigest(), tuple(lines)


def check_beginning(path: Path) -> None:
    """Refuse a file that cannot be a candidate before all of it is read: one of zeros may have a terabyte.

    Raises:
        CandidateError: it is none that a disk holds or that memory does, or begins otherwise than a state dict whose
            name it has.
    """
    try:
        with path.open("rb") as stream:
            beginning, size = stream.read(4), os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise CandidateError(f"{path.name} cannot be read: {error.strerror or error}") from None
    if beginning and size == 0:  # as below /proc, where reading may not end
        raise CandidateError(f"{path} is not a regular file")
    memory = resources.memory()
    if memory is not None and size > memory:
        raise CandidateError(
            f"{path.name} has {size:,} bytes, but this process may use {memory:,} bytes of memory; it is not loaded"
        )
    if path.suffix.lower() not in _OTHERS and not beginning.startswith((_ZIP, pickle.PROTO)):
        raise CandidateError(f"{path.name} is not a complete torch.save file: it is cut short, or something else")


def check_archive(path: Path) -> list[str]:
    """Refuse a zip archive that would unpack to much more than it is; torch stores its own uncompressed.

    Returns:
        The names inside; empty if it is no zip archive.
    """
    if not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CandidateError(f"{path.name} is a broken archive: {error}") from None
    if any(member.compress_type not in _PLAIN for member in members):
        raise CandidateError(f"{path.name} holds what is neither stored nor deflated, unlike torch's; it is not loaded")
    size = path.stat().st_size
    unpacked = sum(member.file_size for member in members)
    pickled = sum(member.file_size for member in members if member.filename.lower().endswith(".pkl"))
    if unpacked > 2 * size + _SLACK_BYTES or pickled > size + PICKLE_SLACK_BYTES:
        raise CandidateError(f"{path.name} holds {size:,} bytes that claim to unpack to {unpacked:,}; it is not loaded")
    return [member.filename for member in members]


def checked_copy(path: Path, look: Callable[[str, bytes], bytes | None]) -> io.BytesIO:
    """A copy in memory of an archive that holds what was checked and nothing else.

    Two readers can see different files in one archive (two members of one name, names that differ by case, a second
    directory, a file that is replaced in between), and torch does not read with Python's reader, which checks here.

    Args:
        path: a zip archive that `check_archive` has passed.
        look: is shown each member's name and content, and says what the copy holds in its place; None: nothing.

    Raises:
        CandidateError: broken, or two members have one name. What `look` raises passes through.
    """
    copy = io.BytesIO()
    seen: set[str] = set()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as target:
            for member in archive.infolist():
                if member.filename.casefold() in seen:
                    raise CandidateError(f"{path.name} holds {shown(member.filename)} twice; it is not loaded")
                seen.add(member.filename.casefold())
                with archive.open(member) as opened:  # `archive.read` may unpack two gigabytes, whatever the size is
                    content = look(member.filename, opened.read(member.file_size))
                if content is not None:
                    target.writestr(zipfile.ZipInfo(member.filename), content)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise CandidateError(f"{path.name} is a broken archive: {error}") from None
    copy.seek(0)
    return copy
