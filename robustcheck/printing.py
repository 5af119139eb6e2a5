"""How wide, and in which colours, commands print tables."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

from robustcheck.words import as_output

if TYPE_CHECKING:
    from rich.console import RenderableType


def print_table(table: RenderableType, *, least: int = 0) -> None:
    """Print a table as wide as the terminal, within reason, and at least `least` columns wide for its figures."""
    from robustcheck.report.summary import render

    width, color = max(least, min(160, shutil.get_terminal_size().columns)), _in_colour()
    click.echo(as_output(render(table, width=width, color=color)), nl=False, color=color)


def _in_colour() -> bool:
    """Whether tables are coloured: as NO_COLOR and FORCE_COLOR say, like pytest, and otherwise only on a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    on_terminal = sys.stdout is not None and sys.stdout.isatty()  # None where it is closed
    return bool(os.environ.get("FORCE_COLOR")) or (on_terminal and os.environ.get("TERM") != "dumb")
