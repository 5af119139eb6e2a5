"""Reports of earlier versions are read, and rendered, for as long as their schema has this number.

`frozen/` holds a report as a version wrote it, and it is never written again: a new version gets a file of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from robustcheck.report.loading import read_report
from robustcheck.report.schema import FILE
from robustcheck.report.writing import render_reports

FROZEN = sorted((Path(__file__).parent / "frozen").glob("report-*.json"))


def _keys(value: Any, path: str = "") -> set[str]:
    """The paths of all keys; what lists hold has one path."""
    if isinstance(value, dict):
        return {f"{path}.{key}" for key in value} | {one for key in value for one in _keys(value[key], f"{path}.{key}")}
    if isinstance(value, list):
        return {one for item in value for one in _keys(item, f"{path}[]")}
    return set()


@pytest.mark.parametrize("file", FROZEN, ids=lambda file: file.stem)
def test_an_old_report_is_read_and_rendered_and_no_key_of_it_is_gone(file, tmp_path):
    text = file.read_text(encoding="utf-8")
    jsonschema.Draft202012Validator(json.loads(FILE.read_text(encoding="utf-8"))).validate(json.loads(text))
    report = read_report(file)
    assert _keys(json.loads(text)) <= _keys(json.loads(report.to_json()))
    names = [path.name for path in render_reports(report, tmp_path, images=tmp_path)]
    assert names == ["junit.xml", "report.html"]


def test_there_are_some():
    assert FROZEN
