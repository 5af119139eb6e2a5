"""Reading an old `report.json` back, so that it can be rendered again."""

from __future__ import annotations

from pathlib import Path

from robustcheck.errors import ReportError
from robustcheck.report.text import one_line
from robustcheck.results import AuditReport

MOST_BYTES = 1 << 29
"""A sample of a gate takes some 430: enough for 40,000 samples at 30 gates. Brackets alone become eleven times as many
bytes of memory."""


def read_report(path: Path | str) -> AuditReport:
    """Read a `report.json`.

    Raises:
        ReportError: there is no such file, it is too large, or it is not a robustcheck report of this format.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ReportError(f"{path}: {'is not a file' if path.exists() else 'there is no such file'}")
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(text) > MOST_BYTES:
        raise ReportError(f"{path}: larger than {MOST_BYTES >> 20} MiB, which no report is")
    try:
        return AuditReport.from_json(text)
    except ReportError as error:
        raise ReportError(f"{path}: {one_line(str(error))}") from None
