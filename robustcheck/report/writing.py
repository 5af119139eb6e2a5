"""Report files: each is whole or not there at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from robustcheck.errors import ReportError
from robustcheck.report.html import html
from robustcheck.report.junit import junit_xml
from robustcheck.results import AuditReport
from robustcheck.whole_files import replacing
from robustcheck.words import visible


def write_reports(report: AuditReport, folder: Path) -> list[Path]:
    """Write `report.json`, `junit.xml` and `report.html` into a folder, which is made if it is not there.

    The JSON comes first: the other two can be made from it again.

    Raises:
        ReportError: a file cannot be written.
    """
    return [write_json(report, folder), *render_reports(report, folder, images=folder)]


def write_json(report: AuditReport, folder: Path) -> Path:
    """Write `report.json` into a folder, which is made if it is not there.

    Raises:
        ReportError: it cannot be written.
    """
    return write_whole(folder / "report.json", json_text(report))


def render_reports(report: AuditReport, folder: Path, *, images: Path) -> list[Path]:
    """Write what people and CI read, `junit.xml` and `report.html`; its pictures come from the report's own folder.

    Both are made before one is written.

    Raises:
        ReportError: a file cannot be written.
    """
    return [write_whole(folder / name, text) for name, text in rendered(report, images=images).items()]


def rendered(report: AuditReport, *, images: Path) -> dict[str, str]:
    """What `render_reports` writes, by the file's name."""
    return {"junit.xml": junit_xml(report), "report.html": html(report, images)}


def json_text(report: AuditReport) -> str:
    """The report as JSON, also where a file name that is not UTF-8 got into it, which JSON cannot hold as it is."""
    try:
        return report.to_json()
    except ValueError:
        shown: AuditReport = _showable(report)
        text = report.policy.text
        if text is not None and text.encode(errors="replace").decode() == text:
            # It is UTF-8, as policies are, and its digest stands beside it: it stays as it is.
            shown = dataclasses.replace(shown, policy=dataclasses.replace(shown.policy, text=text))
        return shown.to_json()


def write_whole(path: Path, text: str) -> Path:
    """Write a text, with its folder.

    Raises:
        ReportError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise ReportError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def _showable(value: Any) -> Any:
    """Data with every text in them made visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {_showable(key): _showable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_showable(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{field.name: _showable(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    return value
