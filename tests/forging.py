"""Projects whose policy was run from the command line, so that their reports can be altered and replayed."""

from __future__ import annotations

from pathlib import Path

from building import brightness_policy
from click.testing import CliRunner

from robustcheck.cli import main


def run_in(folder: Path, gates: str, **policy: str) -> Path:
    """Run these gates on the brightness project in a folder, and write their report to `out` in it."""
    (folder / "policy.yaml").write_text(brightness_policy(gates, **policy))
    result = CliRunner().invoke(main, ["run", str(folder / "policy.yaml"), "-o", str(folder / "out")])
    assert (folder / "out" / "report.json").exists(), result.output
    return folder
