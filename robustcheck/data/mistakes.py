"""Mistakes of a table, all of which are said at once: a table may have millions."""

from __future__ import annotations

from bisect import insort

from robustcheck.data.grouped_faults import SHOWN
from robustcheck.errors import DataError

_MOST = 100_000  # from which on nobody looks further


class Mistakes:
    """Counts mistakes, and keeps those of the first lines.

    Args:
        table: its name.
    """

    def __init__(self, table: str) -> None:
        self._table, self._count = table, 0
        self._first = list[tuple[int, str]]()  # by their lines

    def add(self, line: int, what: str) -> None:
        """One more.

        Raises:
            DataError: there are so many that looking for the others would take hours.
        """
        self._count += 1
        insort(self._first, (line, what))
        del self._first[SHOWN:]
        if self._count > _MOST:
            raise DataError(
                "\n".join([*self._told(), f"{self._table}: more than {_MOST:,} mistakes; the rest is not read"])
            )

    def refuse(self) -> None:
        """Raise a `DataError` if there are any."""
        if self._count:
            more = self._count - len(self._first)
            rest = [f"{self._table}: {more} more of {self._count} mistakes"] if more else []
            raise DataError("\n".join([*self._told(), *rest]))

    def _told(self) -> list[str]:
        return [f"{self._table}:{line}: {what}" for line, what in self._first]
