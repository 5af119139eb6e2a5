"""Files that are whole or not there at all."""

from __future__ import annotations

import glob
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside a file's own, to write to: in the end it takes the file's name, so that no reader meets half of it.

    If writing fails, nothing is left there. What a killed writer leaves is found by `leftovers`. No two writers have
    the same path, whatever machine they run on.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def leftovers(path: Path) -> list[Path]:
    """What killed writers of a file left behind, and what others are still writing."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.*.part"))
