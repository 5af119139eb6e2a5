"""A data file cannot escape its folder, neither by how its path is written nor by a link."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

NO_ESCAPE: Final = "a data file cannot escape its folder"


@dataclass(frozen=True)
class Home:
    """The folder that data files lie in.

    On a file server each look-up costs, so its folders are followed once.
    """

    path: Path  # after every link was followed
    _folders: dict[str, Path | None] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> Home:
        """That of data in a folder, which may be a link itself. Raises OSError where it cannot be followed."""
        return cls(root.resolve())

    def holds(self, resolved: Path) -> bool:
        """Whether a path whose links were followed lies in it."""
        return resolved.is_relative_to(self.path)

    def folder(self, written: str) -> Path | None:
        """Where a folder of it is once its links were followed; None if that is not in it."""
        if written not in self._folders:
            folder = (self.path / written).resolve()
            self._folders[written] = folder if self.holds(folder) else None
        return self._folders[written]
