"""A data file cannot escape its folder, neither by how its path is written nor by a link."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NO_ESCAPE: Final = "a data file cannot escape its folder"


class Home:
    """The folder that data files lie in.

    On a file server each look-up costs, so its folders are followed once.
    """

    def __init__(self, root: Path) -> None:
        """That of data in a folder, which may be a link itself. Raises OSError where it cannot be followed."""
        self.path = root.resolve()
        self._folders = dict[str, Path | None]()

    def holds(self, resolved: Path) -> bool:
        """Whether a path whose links were followed lies in it."""
        return resolved.is_relative_to(self.path)

    def folder(self, written: str) -> Path | None:
        """Where a folder of it is once its links were followed; None if that is not in it."""
        if written not in self._folders:
            folder = (self.path / written).resolve()
            self._folders[written] = folder if self.holds(folder) else None
        return self._folders[written]
