"""The audit report: one HTML file that needs no network, no script and nothing beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from robustcheck.report.as_json import in_json
from robustcheck.report.pictures import digest_of
from robustcheck.report.text import LONGEST_PIECE, name_pieces, one_line
from robustcheck.report.view import report_view
from robustcheck.results import AuditReport
from robustcheck.words import visible

_LONGEST_IN_MARGIN = 80  # characters of the policy's name, at the foot of a printed page


def html(report: AuditReport, folder: Path | None, *, beside: bool) -> str:
    """The report as a page; examples are shown from the counterexample files in `folder`, if one is given.

    If the page will lie `beside` these files, it links to them.
    """
    template = templates().get_template("report.html.j2")
    digest = _digest(report, folder) if folder else None
    return template.render(view=report_view(report, folder), beside=beside, digest=digest) + "\n"


def _digest(report: AuditReport, folder: Path) -> str | None:
    """The sha256 of the folder's `report.json`, if that is this very report, as this version writes it."""
    own, size = in_json(report, _digest_and_size)
    return own if digest_of(folder, "report.json", size) == own else None


def _digest_and_size(pieces: Iterable[bytes]) -> tuple[str, int]:
    whole, size = hashlib.sha256(), 0
    for piece in pieces:
        whole.update(piece)
        size += len(piece)
    return whole.hexdigest(), size


def templates() -> Environment:
    """Templates in which every text is made visible, and escaped."""
    made = Environment(
        loader=PackageLoader("robustcheck.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"pieces": lambda name: name_pieces(visible(name)), "in_css": _in_css}
    made.globals["longest_piece"] = LONGEST_PIECE
    return made


def _in_css(text: str) -> str:
    """A text for a quoted string in a style sheet, cut to what a margin has room for; letters and digits stay."""
    line = one_line(text)
    cut = line if len(line) <= _LONGEST_IN_MARGIN else line[:_LONGEST_IN_MARGIN] + "…"
    return "".join(letter if letter.isascii() and letter.isalnum() else f"\\{ord(letter):06x}" for letter in cut)


def _shown(value: Any) -> Any:
    """A value that a template puts out, made visible if it is text; it is escaped afterwards."""
    return visible(value) if type(value) is str else value
