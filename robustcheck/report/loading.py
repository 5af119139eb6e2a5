"""Reading an old `report.json` back, so that it can be rendered again."""

from __future__ import annotations

from pathlib import Path

from robustcheck import resources
from robustcheck.errors import ReportError
from robustcheck.report.text import one_line
from robustcheck.results import AuditReport

_BECOME = 11  # bytes of memory that a byte of a file may take if it is all brackets; an honest report takes five
_MEMORY_IF_UNKNOWN = 12 << 30


def read_report(path: Path | str) -> AuditReport:
    """Read a `report.json`.

    Raises:
        ReportError: there is no such file, it is too large, or it is not a robustcheck report of this format.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ReportError(f"{path}: {'is not a file' if path.exists() else 'there is no such file'}")
        most = (resources.memory() or _MEMORY_IF_UNKNOWN) // 2 // _BECOME
        with path.open("rb") as file:
            text = file.read(most + 1)
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(text) > most:
        raise ReportError(
            f"{path}: larger than {most / 2**20:.3g} MiB; reading more could take more than half of the memory that "
            "this process may have: read it on a machine with more"
        )
    try:
        return AuditReport.from_json(text)
    except ReportError as error:
        raise ReportError(f"{path}: {one_line(str(error))}") from None
