"""The report on a qualification: JSON for programs, one HTML file for a quality system, a table for a terminal."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from robustcheck.report.html import templates
from robustcheck.report.text import date_text
from robustcheck.report.writing import on_disk, write_whole
from robustcheck.results.qualification import Qualification
from robustcheck.words import plural, visible

FILES = ("qualification.html", "qualification.json")


def remove_earlier_qualification(folder: Path) -> None:
    """Remove an earlier qualification: it must not be taken for one that does not come to its end.

    Raises:
        ReportError: it cannot be removed.
    """
    for name in FILES:
        with on_disk(f"cannot remove {folder / name}"):
            (folder / name).unlink(missing_ok=True)


def write_qualification(qualification: Qualification, folder: Path) -> list[Path]:
    """Write `qualification.json` and `qualification.html` into a folder, which is made if it is not there.

    Raises:
        ReportError: a file cannot be written.
    """
    page = templates().get_template("qualification.html.j2")
    texts = {
        "qualification.json": json.dumps(asdict(qualification), indent=1) + "\n",
        "qualification.html": page.render(
            qualification=qualification,
            sentence=qualification_line(qualification),
            date=date_text(qualification.started),
        )
        + "\n",
    }
    return [write_whole(folder / name, text) for name, text in texts.items()]


def qualification_line(qualification: Qualification) -> str:
    """Whether all answers came out as they should, in one line."""
    answers = qualification.answers
    wrong = [answer for answer in answers if not answer.agrees]
    if not wrong:
        return f"qualified: all {plural(len(answers), 'known answer')} came out as they should"
    first = wrong[0]
    caught = f", caught by {first.caught_by}" if first.caught_by else ""
    return (
        f"not qualified: {len(wrong)} of {plural(len(answers), 'known answer')} came out differently; first: "
        f"{first.candidate}, {first.gate}: expected {first.expected}, found {first.found}{caught}"
    )


def qualification_table(qualification: Qualification) -> Table:
    """A table with a row for each known answer."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for column in ("Candidate", "Gate", "Expected", "Found", "Caught by", ""):
        table.add_column(column, overflow="fold")
    for answer in qualification.answers:
        state = Text("agrees", style="green") if answer.agrees else Text("differs", style="bold red")
        cells = (answer.candidate, answer.gate, answer.expected, answer.found, answer.caught_by)
        table.add_row(*(Text(visible(cell)) for cell in cells), state)
    return table
