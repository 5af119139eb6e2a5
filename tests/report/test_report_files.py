"""Writing, reading back, the schema, and rendering where no network or torch is."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pydantic
import pytest
from report_builder import SCRIPT, asking, failing, hostile, mixed, report, synthetic, with_pictures

from robustcheck import resources
from robustcheck.errors import ReportError
from robustcheck.report import read_report, write_reports
from robustcheck.report.as_json import in_json
from robustcheck.report.html import html
from robustcheck.report.junit import junit_xml
from robustcheck.report.schema import FILE, schema_text
from robustcheck.report.writing import render_reports, write_json, write_whole
from robustcheck.results import AuditReport

ROOT = Path(__file__).parents[2]


def test_all_reports_are_written_whole(tmp_path):
    folder = tmp_path / "deep" / "folder"
    files = write_reports(mixed(), folder)

    assert [file.name for file in files] == ["report.json", "junit.xml", "report.html"]
    assert sorted(folder.iterdir()) == sorted(files)
    assert (folder / "report.json").read_text(encoding="utf-8") == mixed().to_json()
    assert (folder / "junit.xml").read_text(encoding="utf-8") == junit_xml(mixed())
    assert (folder / "report.html").read_text(encoding="utf-8") == html(mixed(), folder, beside=True)


def test_an_earlier_report_is_replaced(tmp_path):
    write_reports(mixed(), tmp_path)
    write_reports(synthetic(), tmp_path)

    assert read_report(tmp_path / "report.json") == synthetic()


def test_line_ends_are_the_same_on_every_system(tmp_path):
    for file in write_reports(mixed(), tmp_path):
        assert b"\r" not in file.read_bytes()


def test_examples_come_from_the_folder_that_is_written_to(tmp_path):
    shown = with_pictures(failing(), tmp_path, most=1)
    write_reports(report(shown, verdict="fail"), tmp_path)

    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("data:image/png") == 3


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "report.json", "old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ReportError, match=r"report\.json: cannot be written: No space left on device"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"report\.json: cannot be written: "):
        write_reports(mixed(), tmp_path / "file" / "folder")


@pytest.mark.parametrize(
    "one", [mixed(), asking(), synthetic(), report(verdict="error", model=None, data=None, interrupted=True)]
)
def test_json_comes_back_equal(one, tmp_path):
    path = write_whole(tmp_path / "report.json", one.to_json())

    assert read_report(path) == one


@pytest.mark.parametrize("one", [mixed(), asking(), synthetic(), report(verdict="error", model=None, data=None)])
def test_json_is_made_gate_by_gate_and_is_what_it_would_be_at_once(one):
    pieces = list(one.json_pieces())

    assert b"".join(pieces) == pydantic.TypeAdapter(AuditReport).dump_json(one, indent=1) + b"\n"
    assert len(pieces) >= len(one.gates)


def test_the_whole_of_it_is_never_held(tmp_path, monkeypatch):
    """Each piece is larger than what files keep to themselves, and is on disk before the next one is asked for."""
    size, made = 2**20, []

    def pieces(_: AuditReport) -> Iterator[bytes]:
        for number in range(4):
            assert sum(file.stat().st_size for file in tmp_path.iterdir()) == number * size
            made.append(number)
            yield b" " * size

    monkeypatch.setattr(AuditReport, "json_pieces", pieces)
    path = write_json(mixed(), tmp_path)

    assert made == [0, 1, 2, 3]
    assert path.stat().st_size == 4 * size


def test_the_page_says_the_digest_of_the_json_beside_it(tmp_path):
    write_reports(mixed(), tmp_path)

    assert hashlib.sha256((tmp_path / "report.json").read_bytes()).hexdigest() in (tmp_path / "report.html").read_text()


def test_text_that_is_not_unicode_is_written_as_an_escape(tmp_path):
    files = write_reports(hostile(), tmp_path)
    back = read_report(files[0])

    assert back.policy.name.startswith("<script>alert(1)</script>\"'&]]>\\x00\\x1b[31m\\u202e\\udcff")
    assert replace(back, policy=hostile().policy).seed == hostile().seed
    assert len(back.gates) == len(hostile().gates)


def test_text_that_is_unicode_is_written_as_it_is():
    one = replace(mixed(), environment={"odd": "\x00\u202e<&"})

    assert AuditReport.from_json(in_json(one, b"".join)) == one


@pytest.mark.parametrize(
    "one", [mixed(), asking(), hostile(), synthetic(), report(verdict="error", model=None, data=None)]
)
def test_it_is_what_the_schema_says(one):
    schema = json.loads(FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)

    jsonschema.Draft202012Validator(schema).validate(json.loads(in_json(one, b"".join)))


def test_the_schema_refuses_what_is_no_report():
    schema = json.loads(FILE.read_text(encoding="utf-8"))
    broken = json.loads(mixed().to_json())
    broken["gates"][0]["verdict"] = "fine"

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(broken)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("data", {"bits": 100_000, "hounsfield": -1024}),
        ("data", {"bits": 10**4000, "zero": -5}),
        *(("threat", {"epsilon_levels": levels}) for levels in (math.inf, math.nan, -1, 10**400)),
        ("threat", {"epsilon_share": math.nan}),
        ("threat", {"conditions": {"rotation": [-(10**400), 15]}}),
    ],
)
def test_numbers_that_no_report_has_are_shown_all_the_same(tmp_path, what, changes):
    one = json.loads(report(with_pictures(failing(), tmp_path, most=1)).to_json())
    one["data"] |= changes if what == "data" else {}
    one["gates"][0]["threat"] |= changes if what == "threat" else {}
    files = write_reports(AuditReport.from_json(json.dumps(one)), tmp_path)
    assert [file.name for file in files] == ["report.json", "junit.xml", "report.html"]


def test_nothing_is_written_where_one_of_the_files_cannot_be_made(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("robustcheck.report.writing.html", fails)
    with pytest.raises(ZeroDivisionError):
        render_reports(mixed(), tmp_path, images=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 13), reason="pydantic writes more into schemas from 2.13 on"
)
def test_the_published_schema_is_the_one_of_the_results():
    published = FILE.read_text(encoding="utf-8")

    assert published == schema_text(), "results/ changed; run: python -m robustcheck.report.schema"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("", "not a robustcheck report: the file: invalid json"),
        ("{", "not a robustcheck report: the file: invalid json"),
        ("[1, 2]", "not a robustcheck report: the file: input should be an object"),
        (
            '{"schema": "robustcheck/report/2"}',
            "not a robustcheck report: schema: input should be 'robustcheck/report/1'",
        ),
        ("[" * 100_000, "recursion limit exceeded"),
        (json.dumps({"schema": "robustcheck/report/1", "verdict": SCRIPT}), "not a robustcheck report: verdict"),
    ],
)
def test_what_is_no_report_is_a_sentence(tmp_path, content, message):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ReportError) as caught:
        read_report(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_is_no_report(tmp_path):
    with pytest.raises(ReportError, match="is not a file"):
        read_report(tmp_path)


def test_a_huge_file_is_not_parsed(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "report.json", mixed().to_json())
    taken = 22 * path.stat().st_size  # at most, by half of the memory
    monkeypatch.setattr(resources, "memory", lambda: taken)
    assert read_report(path) == mixed()
    monkeypatch.setattr(resources, "memory", lambda: taken - 22)
    with pytest.raises(ReportError, match=r"larger than .* MiB; reading more could take more than half of the memory"):
        read_report(path)


RENDER_WITHOUT_TORCH = """
ALLOWED = {"errors", "words", "digests", "whole_files", "resources", "results", "report"}
import sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "onnx", "onnxruntime", "scipy"}:
            raise ImportError(f"{name} is not installed")
        if name.startswith("robustcheck.") and name.split(".")[1] not in ALLOWED:
            raise ImportError(f"reports need {sorted(ALLOWED)} only, not {name}")

sys.meta_path.insert(0, Refuse())
from robustcheck.report import read_report, write_reports
from robustcheck.report.summary import render, summary_table

report = read_report(Path(sys.argv[1]))
write_reports(report, Path(sys.argv[2]))
render(summary_table(report), width=80, color=False)
"""


def test_an_old_report_renders_where_torch_is_not_installed(tmp_path):
    files = write_reports(mixed(), tmp_path / "old")
    command = [sys.executable, "-c", RENDER_WITHOUT_TORCH, str(files[0]), str(tmp_path / "new")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)

    assert done.stderr == ""
    assert done.returncode == 0
    for file in files:
        assert (tmp_path / "new" / file.name).read_bytes() == file.read_bytes()
