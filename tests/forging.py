"""Projects whose policy was run from the command line, so that their reports can be altered and replayed."""

from __future__ import annotations

from pathlib import Path

from building import brightness_manifest, brightness_policy, brightness_project
from click.testing import CliRunner

from robustcheck.cli import main


def run_in(folder: Path, gates: str, **policy: str) -> Path:
    """Run these gates on the brightness project in a folder, and write their report to `out` in it."""
    (folder / "policy.yaml").write_text(brightness_policy(gates, **policy))
    result = CliRunner().invoke(main, ["run", str(folder / "policy.yaml"), "-o", str(folder / "out")])
    assert (folder / "out" / "report.json").exists(), result.output
    return folder


def patients_project(folder: Path) -> Path:
    """The brightness project in a folder, and two images of each of six patients, of either sex, in `patients.csv`."""
    brightness_project(folder)
    rows = [(level, f"p{number}", "FM"[number % 2]) for number, level in enumerate((90, 121, 126, 129, 133, 200))]
    brightness_manifest(folder, rows, images=2)
    return folder
