"""The folder that a run writes to.

A run works in a scratch folder inside it and publishes at its end: what lies there is always of one run. Reports of an
earlier run are taken away when a run begins, so that none of them can be mistaken for this one's. One run at a time
writes to a folder: it holds a lock in its scratch folder, which ends with it, however it ends.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from robustcheck.errors import ReportError
from robustcheck.report.writing import write_reports
from robustcheck.results import AuditReport

COUNTEREXAMPLES = "counterexamples"
_SCRATCH = ".running-"
REPORT_FILES = ("junit.xml", "report.json", "report.html")


class Output:
    """Where the reports on one policy go."""

    def __init__(self, folder: Path) -> None:
        """Make a scratch folder, and take away an earlier run's reports.

        Raises:
            ReportError: the folder cannot be written to, another run writes to it, or it holds counterexamples that
                no report belongs to.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
            self._lock = _lock(self.scratch)
            try:
                self._take_away_earlier()
            except BaseException:
                self.discard()
                raise
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
        self._lock.release()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _take_away_earlier(self) -> None:
        for left in self.folder.glob(f"{_SCRATCH}*"):
            if left != self.scratch:
                _lock(left).release()
                shutil.rmtree(left, ignore_errors=True)  # of a run that was killed
        images = self.folder / COUNTEREXAMPLES
        if images.exists() and not _is_ours(self.folder / "report.json"):
            raise ReportError(
                f"{images} is there, and no report.json of robustcheck beside it says that it may be replaced; "
                "move it away, or choose another output folder"
            )
        _take_away_reports(self.folder)


def outputs(folder: Path, policies: Sequence[Path]) -> list[Output]:
    """A place for each policy: the folder itself for one, a folder in it named after each for more."""
    if len(policies) == 1:
        return [Output(folder)]
    names: dict[str, str] = {}  # by what no system tells apart
    for policy in policies:
        name, number = policy.stem, 2
        while name.casefold() in names:
            name, number = f"{policy.stem}-{number}", number + 1
        names[name.casefold()] = name
    if _is_ours(folder / "report.json"):  # of a run of one policy
        try:
            _take_away_reports(folder)
        except OSError as error:
            raise ReportError(f"cannot take away {folder / 'report.json'}: {error.strerror or error}") from None
    return [Output(folder / name) for name in names.values()]


def _lock(scratch: Path) -> FileLock:
    """Hold a run's scratch folder.

    Raises:
        ReportError: its run goes on.
        OSError: it cannot be written to.
    """
    lock = FileLock(scratch / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ReportError(
            f"another run writes its reports to {scratch.parent}; wait for its end, or choose another output folder"
        ) from None
    except NotImplementedError as error:  # filelock's word for it
        raise OSError("this disk has no locks") from error
    return lock


def _take_away_reports(folder: Path) -> None:
    if (folder / COUNTEREXAMPLES).exists():
        shutil.rmtree(folder / COUNTEREXAMPLES)
    for name in REPORT_FILES:
        (folder / name).unlink(missing_ok=True)


def _is_ours(report: Path) -> bool:
    try:
        schema = json.loads(report.read_bytes()).get("schema", "")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(schema, str) and schema.startswith("robustcheck/report/")
