"""The bytes of a candidate: which files it consists of, and one digest over all of them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from robustcheck.errors import CandidateError
from robustcheck.results import FileInfo

_SLACK_BYTES = 64 * 1024 * 1024


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
        name = file.relative_to(folder).as_posix()
        whole.update(f"{name}\0{content}\n".encode())
        lines.append(FileInfo(path=name, sha256=content, bytes=file.stat().st_size))
    return whole.hexdigest(), tuple(lines)


def check_archive(path: Path) -> list[str]:
    """Refuse a zip archive that would unpack to much more than it is; torch stores its own uncompressed.

    Returns:
        The names inside; empty if it is no zip archive.
    """
    if not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CandidateError(f"{path.name} is a broken archive: {error}") from None
    if unpacked > 2 * path.stat().st_size + _SLACK_BYTES:
        raise CandidateError(
            f"{path.name} holds {path.stat().st_size:,} bytes that claim to unpack to {unpacked:,}; it is not loaded"
        )
    return names
