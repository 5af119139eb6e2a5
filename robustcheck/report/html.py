"""The audit report: one HTML file that needs no network, no script and nothing beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from robustcheck.report.view import report_view
from robustcheck.results import AuditReport
from robustcheck.words import visible


def html(report: AuditReport, folder: Path | None) -> str:
    """The report as a page; examples are shown from the counterexample files in `folder`, if one is given."""
    template = environment().get_template("report.html.j2")
    return template.render(view=report_view(report, folder)) + "\n"


def environment() -> Environment:
    """Templates in which every text is made visible, and escaped."""
    return Environment(
        loader=PackageLoader("robustcheck.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """A value that a template puts out, made visible if it is text; it is escaped afterwards."""
    return visible(value) if type(value) is str else value
