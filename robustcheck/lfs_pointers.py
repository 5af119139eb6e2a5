"""Files that Git LFS has not fetched: what lies in their place is a text of a few lines, a pointer."""

from __future__ import annotations

from pathlib import Path

_BEGINS = b"version https://git-lfs.github.com/spec/"


def if_pointer(path: Path) -> str | None:
    """What to say about a file that is only a pointer, the rest of a sentence that begins with its name; else None."""
    try:
        if not path.is_file():  # a pipe would not end
            return None
        with path.open("rb") as stream:
            is_one = stream.read(len(_BEGINS)) == _BEGINS
    except (OSError, ValueError):  # which is said where it is read
        return None
    return "is a Git LFS pointer, not the file that it stands for: fetch that with `git lfs pull`" if is_one else None
