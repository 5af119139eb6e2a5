"""Report files: each is whole or not there at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from robustcheck.errors import ReportError
from robustcheck.report.as_json import in_json
from robustcheck.report.html import html
from robustcheck.report.junit import junit_xml
from robustcheck.results import AuditReport
from robustcheck.whole_files import replacing


def write_reports(report: AuditReport, folder: Path | str) -> list[Path]:
    """Write `report.json`, `junit.xml` and `report.html` into a folder, which is made if it is not there.

    The JSON comes first: the other two can be made from it again.

    Raises:
        ReportError: a file cannot be written.
    """
    folder = Path(folder)
    return [write_json(report, folder), *render_reports(report, folder, images=folder)]


def write_json(report: AuditReport, folder: Path) -> Path:
    """Write `report.json` into a folder, which is made if it is not there.

    Raises:
        ReportError: it cannot be written.
    """
    return in_json(report, partial(_write, folder / "report.json"))


def render_reports(report: AuditReport, folder: Path, *, images: Path) -> list[Path]:
    """Write what people and CI read, `junit.xml` and `report.html`; its pictures come from the report's own folder.

    Both are made before one is written.

    Raises:
        ReportError: a file cannot be written.
    """
    texts = rendered(report, images=images, beside=folder.resolve() == images.resolve())
    return [write_whole(folder / name, text) for name, text in texts.items()]


def rendered(report: AuditReport, *, images: Path, beside: bool) -> dict[str, str]:
    """What `render_reports` writes, by the file's name; `beside` its pictures, it links to them."""
    return {"junit.xml": junit_xml(report), "report.html": html(report, images, beside=beside)}


@contextmanager
def on_disk(failure: str) -> Iterator[None]:
    """Turn whatever the disk refuses into a `ReportError` that says what failed, and why."""
    try:
        yield
    except OSError as error:
        raise ReportError(f"{failure}: {error.strerror or error}") from None


def write_whole(path: Path, text: str) -> Path:
    """Write a text, with its folder.

    Raises:
        ReportError: it cannot be written.
    """
    return _write(path, [text.encode()])


def _write(path: Path, pieces: Iterable[bytes]) -> Path:
    """Write the pieces of a file, with its folder.

    Raises:
        ReportError: they cannot be written.
    """
    with on_disk(f"{path}: cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("xb") as file:
            file.writelines(pieces)
    return path
