"""The folder that a run writes to.

A run works in a scratch folder inside it and publishes at its end: what lies there is always of one run. Reports of an
earlier run are taken away when a run begins, so that none of them can be mistaken for this one's. One run at a time
writes to a folder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from robustcheck.errors import ReportError
from robustcheck.report.writing import write_reports
from robustcheck.results import AuditReport

COUNTEREXAMPLES = "counterexamples"
_SCRATCH = ".running-"
REPORT_FILES = ("junit.xml", "report.json", "report.html")


class Output:
    """Where the reports on one policy go."""

    def __init__(self, folder: Path) -> None:
        """Take away an earlier run's reports and make a scratch folder.

        Raises:
            ReportError: the folder cannot be written to, or holds counterexamples that no report belongs to.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._take_away_earlier()
            self.scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
        except OSError as error:
            raise ReportError(f"cannot write reports to {folder}: {error.strerror or error}") from None

    def publish(self, report: AuditReport) -> list[Path]:
        """Move the run's counterexamples into place and write its reports; returns the files.

        Raises:
            ReportError: they cannot be written.
        """
        made, place = self.scratch / COUNTEREXAMPLES, self.folder / COUNTEREXAMPLES
        try:
            if place.exists():  # made by someone else while this run went on
                place.replace(Path(tempfile.mkdtemp(prefix=f"{COUNTEREXAMPLES}-of-others-", dir=self.folder)))
            if made.exists():
                made.replace(place)
        except OSError as error:
            raise ReportError(f"cannot move counterexamples to {place}: {error.strerror or error}") from None
        return write_reports(report, self.folder)

    def discard(self) -> None:
        """Remove the scratch folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _take_away_earlier(self) -> None:
        images = self.folder / COUNTEREXAMPLES
        if images.exists():
            if not _is_ours(self.folder / "report.json"):
                raise ReportError(
                    f"{images} is there, and no report.json of robustcheck beside it says that it may be replaced; "
                    "move it away, or choose another output folder"
                )
            shutil.rmtree(images)
        for left in self.folder.glob(f"{_SCRATCH}*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        for name in REPORT_FILES:
            (self.folder / name).unlink(missing_ok=True)


def outputs(folder: Path, policies: Sequence[Path]) -> list[Output]:
    """A place for each policy: the folder itself for one, a folder in it named after each for more."""
    if len(policies) == 1:
        return [Output(folder)]
    names: list[str] = []
    for policy in policies:
        name, number = policy.stem, 2
        while name in names:
            name, number = f"{policy.stem}-{number}", number + 1
        names.append(name)
    return [Output(folder / name) for name in names]


def _is_ours(report: Path) -> bool:
    try:
        schema = json.loads(report.read_bytes()).get("schema", "")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(schema, str) and schema.startswith("robustcheck/report/")
