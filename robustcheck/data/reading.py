"""What readers of files share: libraries' errors as sentences, how tables are written, how much memory is allowed."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unicodedata import category, normalize

from robustcheck import resources
from robustcheck.errors import DataError, RobustcheckError
from robustcheck.lfs_pointers import if_pointer
from robustcheck.words import did_you_mean, last_line

MAX_PIXELS = 1 << 26  # of an image: 8192 x 8192, above any radiograph, below a decompression bomb
_MEMORY_IF_UNKNOWN = 4 << 30


@contextmanager
def parsing(what: str) -> Iterator[None]:
    """Turn whatever a parser raises into a `DataError` about `what`.

    Pillow, zipfile and numpy raise anything on a hostile file (IndexError, struct.error, zlib.error, RecursionError,
    even warnings where those are errors), so everything is caught: keep the body to the library's call.
    """
    try:
        yield
    except RobustcheckError:
        raise
    except MemoryError:
        raise DataError(f"{what}: it does not fit in memory") from None
    except OSError as error:
        raise DataError(f"{what}: it cannot be read: {error.strerror or last_line(error)}") from None
    except Exception as error:  # noqa: BLE001 - see above
        raise DataError(f"{what}: it cannot be read: {last_line(error)}") from None


def existing_file(path: Path, source: str) -> Path:
    """The path, if a file is there.

    Raises:
        DataError: there is none (a file beside it may have been meant), it is a folder, a pipe or a device, or only a
            pointer of Git LFS.
    """
    with parsing(source):  # a path may hold a NUL, or lie in a folder that may not be searched
        if path.is_file():
            if pointer := if_pointer(path):
                raise DataError(f"{source} {pointer}")
            return path
        if path.exists():
            raise DataError(f"{source}: {path} is not a file")
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"{source}: there is no file {path}{did_you_mean(path.name, beside)}")


def delimiter_of(table: str) -> str:
    """What separates the columns of a .csv: a comma, or what the spreadsheets of some countries write."""
    header = next((line for line in table.splitlines() if line.strip()), "")
    return max(",;\t", key=header.count)


def folded(path: str) -> str:
    """A path in one of the ways in which it may be written: in small letters, composed accents, and with /."""
    return normalize("NFC", path.replace("\\", "/")).casefold()


def normalised(path: str) -> str:
    """A relative path in a table as samples are called by it: `./a//b.png` is a/b.png."""
    return posixpath.normpath(path)


def storable(text: str) -> bool:
    """Whether a report can hold a text: it has no control character, and no byte that is not text."""
    return not any(category(character) in ("Cc", "Cs") for character in text)


def memory_limit() -> int:
    """Bytes that one array may take: half of the memory there is, so that a lying header cannot take it all."""
    known = resources.memory()
    return _MEMORY_IF_UNKNOWN if known is None else known // 2


def check_memory(needed: int, what: str) -> None:
    """Raise a `DataError` if `needed` bytes pass the limit."""
    limit = memory_limit()
    if needed > limit:
        allowed = f"{limit / 2**30:.1f} GiB"
        if resources.memory() is None:
            allowed = f"only {allowed} is allowed if the machine does not say how much it has"
        else:
            allowed = f"only half of what this process may have, {allowed}, is allowed"
        raise DataError(
            f"{what}: it would take {needed / 2**30:.1f} GiB of memory, but {allowed}; store it as a folder of files, "
            "which are read one at a time"
        )
