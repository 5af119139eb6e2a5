"""The folder that a run writes to.

A run works in a scratch folder inside it and publishes at its end: what lies there is always from one run. Reports of
an earlier run are removed when a run begins, so that they cannot be mistaken for the new one's. Only one run at a time
writes to a folder: it holds a lock in its scratch folder, which ends with the run, however it ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from robustcheck.errors import ReportError
from robustcheck.report.writing import on_disk, render_reports, write_json, write_whole
from robustcheck.results import AuditReport
from robustcheck.results.agreed import COUNTEREXAMPLES
from robustcheck.words import distinct

_SCRATCH = ".running-"
_LOCK = ".lock"  # in a scratch folder
_MOMENT = 10.0  # seconds from a scratch folder to its lock, at most
_OWNED_BY = "report.json"  # says whose the folder is, so it is written first and removed last
_SEVERAL = ".robustcheck-several"  # names the folders that runs of several policies made beside it
RENDERED = ("junit.xml", "report.html")
_PUBLISHED = (COUNTEREXAMPLES, *RENDERED, _OWNED_BY)
# `robustcheck render` may write to a folder without report.json; these marks near a file's beginning say whose it is.
_MARKS = {
    "junit.xml": b'name="environment.robustcheck"',
    "report.html": b'<meta name="generator" content="robustcheck">',
}
_BEGINNING = 8192  # bytes
_MOST = 64 << 20  # bytes that are read to see whose a file is; robustcheck's own say so near their beginning
_OURS = re.compile(rb'\s*{\s*"schema"\s*:\s*"robustcheck/report/')


class Output:
    """Where the reports on one policy go."""

    def __init__(self, folder: Path) -> None:
        """Make a scratch folder.

        Raises:
            ReportError: the folder cannot be written to, another run is writing to it, or it contains files with the
                names of reports that are not robustcheck's.
        """
        self.folder = folder.absolute()  # a candidate's code may change the working directory
        with on_disk(f"cannot write reports to {folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.folder))
        self._lock = _lock_of(self.scratch)
        try:
            _refuse_if_in_use(self.folder, excepted=self.scratch)
            refuse_what_is_not_ours(folder)
        except BaseException:
            self.discard()
            raise

    def publish(self, report: AuditReport) -> list[Path]:
        """Write the run's reports and move its counterexamples into place; returns the files.

        `report.json` comes first: wherever this stops, a later run knows from it what may be replaced.

        Raises:
            ReportError: they cannot be written.
        """
        written = write_json(report, self.folder)
        made, place = self.scratch / COUNTEREXAMPLES, self.folder / COUNTEREXAMPLES
        with on_disk(f"cannot move counterexamples to {place}"):
            if place.exists():  # made by someone else while this run went on
                place.replace(Path(tempfile.mkdtemp(prefix=f"{COUNTEREXAMPLES}-of-others-", dir=self.folder)))
            if made.exists():
                made.replace(place)
        return [written, *render_reports(report, self.folder, images=self.folder)]

    def discard(self) -> None:
        """Remove the scratch folder."""
        if self._lock is not None:
            self._lock.release()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def remove_earlier(self) -> None:
        """Remove an earlier run's reports, and what a killed run left.

        Raises:
            ReportError: they cannot be removed.
        """
        for left in _scratch_folders(self.folder):
            if left != self.scratch and _is_left(left, self.scratch):
                shutil.rmtree(left, ignore_errors=True)
        _remove_reports(self.folder)


def refuse_what_is_not_ours(folder: Path, names: Sequence[str] = _PUBLISHED) -> None:
    """Raise a `ReportError` if what lies in a folder under the names of reports was written by someone else."""
    other = next((path for name in names if (path := folder / name).exists() and not _marked(path)), None)
    if other is not None and not _is_ours(folder / _OWNED_BY):
        raise ReportError(
            f"{other} is there, but no {_OWNED_BY} of robustcheck's says that it may be replaced; "
            "move it away, or choose another output folder"
        )


def try_to_remove_earlier(folder: Path, policies: Sequence[Path]) -> None:
    """Remove earlier reports although no run can begin: they say nothing about policies that cannot be used.

    If that fails they stay, because the reason why the run cannot begin is what has to be reported.
    """
    with suppress(ReportError):
        own = any(_is_ours(folder / name / _OWNED_BY) for name in (".", *_folders(policies)))
        if own or _of_several(folder):
            for output in outputs(folder, policies):
                output.discard()


def outputs(folder: Path, policies: Sequence[Path]) -> list[Output]:
    """A place for each policy: the folder itself for one, a folder in it named after each for more.

    Folders that a run of several policies left and this one does not use are emptied, as far as possible.

    Raises:
        ReportError: one of them cannot be written to, and nothing was removed; or an earlier report cannot be removed.
    """
    names = _folders(policies)
    made: list[Output] = []
    try:
        if len(names) > 1:
            _refuse_if_in_use(folder)
        # One by one: if one is refused, those before it are discarded.
        made.extend(Output(folder / name) for name in names)
        below = names if len(names) > 1 else []
        left = [name for name in _of_several(folder) if name not in names]  # of policies that this run does not have
        _note_several(folder, [*below, *left])
        for output in made:
            output.remove_earlier()
        if below and _is_ours(folder / _OWNED_BY):  # written by an earlier run of one policy
            _remove_reports(folder)
        _note_several(folder, [*below, *(name for name in left if not _is_emptied(folder / name))])
    except BaseException:
        for output in made:
            output.discard()
        raise
    return made


def _folders(policies: Sequence[Path]) -> list[str]:
    """Where each policy's reports lie in the output folder; no two names differ only in upper and lower case."""
    return ["."] if len(policies) == 1 else distinct(policy.stem for policy in policies)


def _of_several(folder: Path) -> list[str]:
    """The folders in this one that runs of several policies made and noted; links are left out: they may lead anywhere.

    Somebody keeps the reports in other folders here, whatever their names.
    """
    try:
        noted = json.loads(_bytes_of(folder / _SEVERAL, _MOST))
        below = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink()]
    except (OSError, ValueError, RecursionError):
        return []
    return [name for name in below if name in noted] if isinstance(noted, list) else []


def _note_several(folder: Path, names: Sequence[str]) -> None:
    """Note which folders in this one belong to runs of several policies.

    Raises:
        ReportError: the note cannot be written.
    """
    note = folder / _SEVERAL
    if names:
        write_whole(note, json.dumps(names) + "\n")
        return
    with on_disk(f"cannot remove {note}"):
        note.unlink(missing_ok=True)


def _is_emptied(folder: Path) -> bool:
    """Remove the reports of a policy that this run does not have; whether they are gone, or are someone else's.

    Another run that still goes on keeps its own. What cannot be removed does not keep this one from beginning: a later
    run tries again.
    """
    if any(_is_held(scratch) for scratch in _scratch_folders(folder)):
        return False
    try:
        if _is_ours(folder / _OWNED_BY):
            _remove_reports(folder)
    except ReportError:
        return False
    return True


def _refuse_if_in_use(folder: Path, *, excepted: Path | None = None) -> None:
    """Raise a `ReportError` if a run holds a scratch folder in this folder, other than the one that is excepted."""
    for scratch in _scratch_folders(folder):
        if scratch != excepted and _is_held(scratch):
            raise ReportError(
                f"another run is writing its reports to {folder}; wait until it ends, or choose another output folder "
                f"(if there is none, remove {scratch})"
            )


def _scratch_folders(folder: Path) -> Iterator[Path]:
    """The scratch folders of all runs; links are left out: they may lead anywhere."""
    for scratch in folder.glob(f"{_SCRATCH}*"):
        with suppress(OSError):  # it was removed meanwhile
            if stat.S_ISDIR(scratch.lstat().st_mode):
                yield scratch


def _is_left(scratch: Path, own: Path) -> bool:
    """Whether a run that is over left a folder that may be removed: what others put there is theirs.

    Owners and times are compared with those of a run's own folder, because a network disk may change both.
    """
    with suppress(OSError):  # it was removed meanwhile
        found, mine = scratch.lstat(), own.lstat()
        locked = os.path.lexists(scratch / _LOCK)  # or a run that begins has not come to it yet
        return found.st_uid == mine.st_uid and (locked or mine.st_mtime - found.st_mtime > _MOMENT)
    return False


def _lock_of(scratch: Path) -> FileLock | None:
    """The lock of a run's own scratch folder; None if the disk has no locks."""
    lock = FileLock(scratch / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError):  # the latter is filelock's word for it, and a timeout is an OSError
        return None
    return lock


def _is_held(scratch: Path) -> bool:
    lock = FileLock(scratch / _LOCK)
    try:
        if not stat.S_ISREG((scratch / _LOCK).lstat().st_mode):  # opening a pipe would not end
            return False
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except PermissionError:  # another user's, into which this one may not look
        return True
    except (OSError, NotImplementedError):  # none, or a disk without locks: nobody can tell
        return False
    lock.release()
    return False


def _remove_reports(folder: Path) -> None:
    with on_disk(f"cannot remove earlier reports in {folder}"):
        if (folder / COUNTEREXAMPLES).exists():
            shutil.rmtree(folder / COUNTEREXAMPLES)
        for name in _PUBLISHED[1:]:
            (folder / name).unlink(missing_ok=True)


def _marked(path: Path) -> bool:
    """Whether a page or a JUnit file says itself who wrote it."""
    if path.name not in _MARKS:
        return False
    try:
        return _MARKS[path.name] in _bytes_of(path, _BEGINNING)
    except OSError:
        return False


def _is_ours(report: Path) -> bool:
    """Whether a file is one of robustcheck's reports; a large one is not read whole for that."""
    try:
        if _OURS.match(_bytes_of(report, _BEGINNING)):
            return True
        schema = json.loads(_bytes_of(report, _MOST)).get("schema")
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
    return isinstance(schema, str) and schema.startswith("robustcheck/report/")


def _bytes_of(path: Path, most: int) -> bytes:
    """The first bytes of a file.

    Raises:
        OSError: it cannot be read, or is not a file: opening a pipe, or reading a device, would not end.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        return file.read(most)
