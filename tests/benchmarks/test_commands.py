"""What is typed: each command says how it is used, and what it cannot use, before it begins."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import step
from benchmarks.arguments import add_common

COMMANDS = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py")
    if "\ndef main(" in path.read_text(encoding="utf-8")
)
WITHOUT_XRAYS = {"coverage", "onnx_conformance"}
WITHOUT_TABLES = {*WITHOUT_XRAYS, "onnx_zoo", "training"}
pytestmark = pytest.mark.usefixtures("process")


def _refused(command: str, *arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        import_module(f"benchmarks.{command}").main([*arguments])
    return ended.value.code


def test_there_are_commands():
    assert {"peers", "query_peers", "step", "training"} < {*COMMANDS}
    assert {*COMMANDS} > WITHOUT_XRAYS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_that_says_how_it_ended_exits_so(command):
    source = (Path(__file__).parents[2] / "benchmarks" / f"{command}.py").read_text(encoding="utf-8")
    answers = "None = None) -> int:" in source
    assert ("sys.exit(" in source.partition('if __name__ == "__main__":')[2]) is answers


@pytest.mark.parametrize("command", COMMANDS)
def test_each_has_help(command, capsys):
    assert _refused(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m benchmarks.{command} ")


@pytest.mark.parametrize("command", sorted({*COMMANDS} - WITHOUT_XRAYS))
def test_an_archive_that_is_missing_is_a_sentence(command, capsys):
    assert _refused(command, "--archive", "nowhere.npz") == 2
    assert f"there is no {Path('nowhere.npz').resolve()}; say where" in capsys.readouterr().err


def test_a_relative_archive_is_found_from_everywhere(tmp_path, monkeypatch):
    (tmp_path / "images.npz").touch()
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    add_common(parser)
    assert parser.parse_args(["--archive", "images.npz"]).archive == tmp_path / "images.npz"


@pytest.mark.parametrize("command", sorted({*COMMANDS} - WITHOUT_TABLES))
def test_tables_that_cannot_be_written_are_refused_first(command, tmp_path, capsys):
    for out in (tmp_path / "missing" / "page.md", tmp_path):
        assert _refused(command, "--out", str(out)) == 2
        assert f"{out} cannot be written" in capsys.readouterr().err


@pytest.mark.xrays
def test_gates_that_end_in_errors_are_a_sentence(xrays, capsys):
    from benchmarks import black_box

    code = black_box.main(["--candidates", "cnn-standard", "--images", "1000", "--archive", str(xrays)])
    assert code == 1
    told = capsys.readouterr().err
    assert told.startswith("pgd: ")
    assert "1000" in told
    assert "13 more" in told


@pytest.mark.xrays
def test_a_table_of_attacks_that_ask(xrays, tmp_path, capsys):
    from benchmarks import black_box

    kept = tmp_path / "tables.md"
    given = ["--images", "4", "--attacks", "square", "--threads", "1", "--archive", str(xrays), "--out", str(kept)]
    assert black_box.main(["--candidates", "cnn-standard", *given]) == 0
    told = capsys.readouterr().out
    assert kept.read_text(encoding="utf-8").strip() == told.strip()
    assert told.startswith("Measured by `python -m benchmarks.black_box --candidates cnn-standard --images 4")
    assert "| square " in told
    assert "of the machine meanwhile" in told


@pytest.mark.xrays
def test_a_table_of_attacks_that_may_ask_a_few_times(xrays, monkeypatch, capsys):
    from benchmarks import few_queries

    monkeypatch.setattr(few_queries, "LIMITS", (10, 60))
    given = ["--images", "4", "--threads", "1", "--archive", str(xrays)]
    assert few_queries.main(["--candidates", "cnn-standard", *given]) == 0
    rows = dict(re.findall(r"^\| (\w+) +(\|.*)\|$", capsys.readouterr().out, flags=re.MULTILINE))
    assert rows.keys() >= {"noise", "patterns", "square", "label_only", "rays"}
    assert rows["nes"].split("|")[1].strip() == "", "51 queries make a step"
    assert all(0 <= float(cell) <= 1 for cell in rows["patterns"].split("|")[1:])


@pytest.mark.xrays
def test_a_batch_of_more_than_hold_is_refused(xrays, monkeypatch, capsys):
    monkeypatch.setattr(step, "_holding", lambda *_: [0, 1, 2])
    assert step.main(["--batches", "1", "4", "--archive", str(xrays)]) == 1
    assert capsys.readouterr().err == "--batches: 4 is more than the 3 X-rays that hold\n"
