"""The folder that runs write to: one run at a time, and no reports of another."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from report_builder import mixed

from robustcheck.errors import ReportError
from robustcheck.report.output import Output, outputs, try_to_remove_earlier
from robustcheck.report.writing import render_reports

REPORTS = ["junit.xml", "report.html", "report.json"]
NOTE = ".robustcheck-several"


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _published(folder, *policies):
    paths = [Path(policy) for policy in policies or ("a.yaml",)]
    for path, output in zip(paths, outputs(folder, paths), strict=True):
        output.publish(_about(path))
        output.discard()


def _about(policy):
    return replace(mixed(), policy=replace(mixed().policy, path=str(policy)))


def _of_long_ago(folder):
    folder.mkdir(exist_ok=True)
    os.utime(folder, (0, 0))


@pytest.fixture
def owned_by(monkeypatch):
    """Let a path be owned by another user, as far as anybody looks."""

    def build(owned, uid):
        lstat = Path.lstat

        def mapped(path):
            found = lstat(path)
            if path != owned and owned not in path.parents:
                return found
            return os.stat_result((*found[:4], uid, *found[5:10]), {"st_mtime": found.st_mtime})

        monkeypatch.setattr(Path, "lstat", mapped)

    return build


@pytest.fixture
def unopened(monkeypatch):
    """Let the test fail where a path is opened."""

    def build(kept):
        def open_but(path, *given, **more):
            return pytest.fail("it was opened") if path == kept else opened_before(path, *given, **more)

        opened_before = Path.open
        monkeypatch.setattr(Path, "open", open_but)

    return build


def test_a_second_run_into_one_folder_is_refused_and_harms_nothing(tmp_path):
    first = Output(tmp_path)
    (first.scratch / "counterexamples").mkdir()
    with pytest.raises(
        ReportError, match=r"another run is writing its reports to .*; wait until it ends, or choose another"
    ):
        Output(tmp_path)
    assert (first.scratch / "counterexamples").is_dir()
    first.publish(mixed())
    first.discard()
    assert _names(tmp_path) == ["counterexamples", *REPORTS]
    Output(tmp_path).discard()


@pytest.mark.parametrize("busy", [".", "b"])
def test_several_policies_are_refused_where_a_run_goes_on_and_nothing_is_lost(tmp_path, busy):
    _published(tmp_path, "a.yaml", "b.yaml")
    first = Output(tmp_path / busy)
    with pytest.raises(ReportError, match=r"another run is writing its reports to "):
        outputs(tmp_path, [Path("a.yaml"), Path("b.yaml")])
    first.discard()
    assert _names(tmp_path) == [NOTE, "a", "b"]
    assert _names(tmp_path / "a") == _names(tmp_path / "b") == REPORTS


def test_a_disk_without_locks_takes_reports_all_the_same(tmp_path, monkeypatch):
    def refuse(*_given, **_more):
        raise NotImplementedError

    monkeypatch.setattr("robustcheck.report.output.FileLock.acquire", refuse)
    _of_long_ago(tmp_path / ".running-dead")
    _published(tmp_path)
    assert _names(tmp_path) == REPORTS


def test_what_a_killed_run_left_is_taken_away(tmp_path):
    left = tmp_path / ".running-dead"
    (left / "counterexamples").mkdir(parents=True)
    (left / ".lock").touch()
    (tmp_path / ".running-unlocked" / "counterexamples").mkdir(parents=True)
    _of_long_ago(tmp_path / ".running-unlocked")
    _published(tmp_path)
    assert _names(tmp_path) == REPORTS


def test_the_folder_of_a_run_that_begins_is_left_to_it(tmp_path):
    """A moment lies between a folder and its lock."""
    (tmp_path / ".running-begins").mkdir()
    _published(tmp_path)
    assert _names(tmp_path) == [".running-begins", *REPORTS]


def test_the_report_of_one_policy_does_not_stand_above_those_of_several(tmp_path):
    _published(tmp_path)
    _published(tmp_path, "a.yaml", "b.yaml")
    assert _names(tmp_path) == [NOTE, "a", "b"]
    assert _names(tmp_path / "a") == _names(tmp_path / "b") == REPORTS


@pytest.mark.parametrize(
    ("policies", "left"),
    [
        (["c.yaml"], {"a": [], "b": [], "b-2": [], ".": REPORTS}),
        (["a.yaml"], {"a": [], "b": [], "b-2": [], ".": REPORTS}),
        (["a.yaml", "b.yaml"], {"a": REPORTS, "b": REPORTS, "b-2": [], ".": [NOTE]}),
        (["b.yaml", "c.yaml"], {"a": [], "b": REPORTS, "b-2": [], "c": REPORTS, ".": [NOTE]}),
    ],
)
def test_no_report_of_a_policy_stands_beside_a_later_run_without_it(tmp_path, policies, left):
    _published(tmp_path, "here/a.yaml", "b.yaml", "there/b.yaml")
    _published(tmp_path, *policies)
    for name, files in left.items():
        assert [path.name for path in sorted((tmp_path / name).iterdir()) if path.is_file()] == files, name


def test_no_report_of_a_policy_stands_where_a_later_run_cannot_begin(tmp_path):
    _published(tmp_path, "a.yaml", "b.yaml")
    try_to_remove_earlier(tmp_path, [Path("c.yaml")])
    assert _names(tmp_path / "a") == _names(tmp_path / "b") == []


def test_what_lies_below_a_run_s_folder_and_is_not_of_a_run_of_several_stays(tmp_path):
    """Someone else's files; reports that somebody keeps under a name of their own; what a link leads to."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "out"
    _published(folder / "kept" / "a")
    _published(folder / "release-1")
    _published(elsewhere / "a")
    (folder / "a").symlink_to(elsewhere / "a")
    for name, text in {"b": "{}", "c": "[]", "d": "no JSON", "e": '{"schema": "robustcheck/report/1"}'}.items():
        (folder / name).mkdir()
        (folder / name / "report.json").write_text(text)
        (folder / name / "junit.xml").write_text("theirs")
    _published(folder, "z.yaml")
    for kept in (folder / "kept" / "a", folder / "release-1", elsewhere / "a"):
        assert _names(kept) == REPORTS
    for name in "bcde":
        assert _names(folder / name) == ["junit.xml", "report.json"]


@pytest.mark.parametrize("policies", [["chest.yaml"], ["chest.yaml", "hand.yaml"]])
def test_reports_of_runs_of_one_that_somebody_keeps_below_stay(tmp_path, policies):
    """By date, or a folder for each policy; those that a run of several made beside them are not kept."""
    _published(tmp_path, "old.yaml", "older.yaml")
    for kept in ("foot", "chest-20261129"):
        _published(tmp_path / kept, f"{kept.partition('-')[0]}.yaml")
    _published(tmp_path, *policies)
    try_to_remove_earlier(tmp_path, [Path(policy) for policy in policies])
    for kept in ("foot", "chest-20261129"):
        assert _names(tmp_path / kept) == REPORTS
    assert _names(tmp_path / "old") == _names(tmp_path / "older") == []


@pytest.mark.parametrize(
    "noted", ['[".."]', '["../kept", "kept/a", "/", 1, null, "link"]', '"kept"', "{", "[" * 100000]
)
def test_a_note_that_is_no_list_of_folders_costs_nobody_a_report(tmp_path, noted):
    folder = tmp_path / "out"
    for kept in (tmp_path, tmp_path / "kept", folder / "kept" / "a"):
        _published(kept)
    (folder / "link").symlink_to(tmp_path / "kept")
    (folder / NOTE).write_text(noted)
    _published(folder)
    for kept in (tmp_path, tmp_path / "kept", folder / "kept" / "a"):
        assert set(_names(kept)) >= set(REPORTS)
    assert _names(folder) == [*REPORTS[:1], "kept", "link", *REPORTS[1:]]


def test_what_is_left_below_and_cannot_be_removed_keeps_no_run_from_beginning(tmp_path, monkeypatch):
    def refused(path, **more):
        if path.parent == tmp_path / "a":
            raise PermissionError(13, "Permission denied")
        return unlink(path, **more)

    _published(tmp_path, "a.yaml", "b.yaml")
    unlink = Path.unlink
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        _published(tmp_path, "c.yaml")
    assert _names(tmp_path) == [NOTE, "a", "b", *REPORTS]
    assert _names(tmp_path / "a") == REPORTS
    _published(tmp_path, "c.yaml")
    assert _names(tmp_path / "a") == []
    assert _names(tmp_path) == ["a", "b", *REPORTS]


def test_what_a_run_that_goes_on_holds_below_stays(tmp_path):
    _published(tmp_path, "a.yaml", "b.yaml")
    running = Output(tmp_path / "a")
    _published(tmp_path, "c.yaml")
    running.discard()
    assert _names(tmp_path / "a") == REPORTS
    assert _names(tmp_path / "b") == []
    _published(tmp_path, "c.yaml")
    assert _names(tmp_path / "a") == []


def test_someone_elses_files_above_the_reports_of_several_stay(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "junit.xml").write_text("theirs")
    _published(tmp_path, "a.yaml", "b.yaml")
    assert (tmp_path / "junit.xml").read_text() == "theirs"


def test_policies_whose_names_differ_by_case_alone_have_folders_on_any_system(tmp_path):
    _published(tmp_path, "here/A.yaml", "there/a.yaml")
    assert _names(tmp_path) == [NOTE, "A", "a-2"]


def test_a_run_whose_reports_could_not_be_written_does_not_keep_the_next_one_from_its_folder(tmp_path, monkeypatch):
    def full(path, _text):
        raise ReportError(f"{path}: cannot be written: No space left on device")

    (output,) = outputs(tmp_path, [Path("a.yaml")])
    (output.scratch / "counterexamples").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("robustcheck.report.writing.write_whole", full)
        with pytest.raises(ReportError, match="No space left"):
            output.publish(mixed())
    output.discard()
    _published(tmp_path)
    assert _names(tmp_path) == REPORTS


@pytest.mark.parametrize("name", REPORTS)
def test_a_file_of_someone_else_s_is_not_taken_for_a_report(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ReportError, match=rf"{name} is there, but .*move it away, or choose another output folder"):
        outputs(tmp_path, [Path("a.yaml")])
    assert _names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "{}"


def test_a_large_report_is_not_read_whole_to_see_whose_it_is(tmp_path, monkeypatch):
    _published(tmp_path)
    (tmp_path / "junit.xml").write_text("<testsuites/>")  # nothing else says so
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("it was read"))
    _published(tmp_path)
    assert _names(tmp_path) == REPORTS


def test_what_was_rendered_alone_is_ours(tmp_path):
    render_reports(mixed(), tmp_path, images=tmp_path)
    assert _names(tmp_path) == ["junit.xml", "report.html"]
    _published(tmp_path)
    assert _names(tmp_path) == REPORTS


def test_what_others_put_in_the_place_of_a_run_s_folder_is_left_alone(tmp_path):
    """A link may lead to files that are nobody's business here."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    folder.mkdir()
    (elsewhere / "kept").write_text("theirs")
    (folder / ".running-link").symlink_to(elsewhere)
    (folder / ".running-file").write_text("theirs")
    _published(folder)
    assert _names(elsewhere) == ["kept"]
    assert _names(folder) == [".running-file", ".running-link", *REPORTS]


def test_a_folder_of_another_user_s_is_left_alone(tmp_path, owned_by):
    (tmp_path / ".running-theirs").mkdir()
    (tmp_path / ".running-theirs" / ".lock").write_text("")
    owned_by(tmp_path / ".running-theirs", tmp_path.stat().st_uid + 1)
    _published(tmp_path)
    assert _names(tmp_path) == [".running-theirs", *REPORTS]


def test_a_run_of_another_user_s_is_not_written_over(tmp_path, owned_by):
    first = Output(tmp_path)
    owned_by(first.scratch, tmp_path.stat().st_uid + 1)
    with pytest.raises(ReportError, match="another run is writing its reports to "):
        Output(tmp_path)
    first.discard()


def test_a_run_into_which_nobody_may_look_is_not_written_over(tmp_path, monkeypatch):
    """Its folder is its user's alone; whoever is no root cannot see whether it has a lock."""
    (tmp_path / ".running-theirs").mkdir()
    seen = Path.lstat

    def lstat(path):
        if path.parent.name == ".running-theirs":
            raise PermissionError(13, "Permission denied")
        return seen(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(ReportError, match=r"if there is none, remove .*running-theirs"):
        Output(tmp_path)


def test_a_disk_that_names_another_owner_is_as_any_other(tmp_path, owned_by):
    """As network disks do, and containers."""
    owned_by(tmp_path, tmp_path.stat().st_uid + 1)
    (tmp_path / ".running-dead").mkdir()
    (tmp_path / ".running-dead" / ".lock").touch()
    first = Output(tmp_path)
    with pytest.raises(ReportError, match="another run is writing its reports to "):
        Output(tmp_path)
    first.discard()
    _published(tmp_path)
    assert _names(tmp_path) == REPORTS


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("lock", ["pipe", "link"])
def test_a_lock_that_is_no_file_is_not_opened(tmp_path, monkeypatch, lock):
    left = tmp_path / "out" / ".running-dead"
    left.mkdir(parents=True)
    (tmp_path / "precious").write_text("theirs")
    os.mkfifo(left / ".lock") if lock == "pipe" else (left / ".lock").symlink_to(tmp_path / "precious")
    opened = []
    acquire = FileLock.acquire

    def watched(self, *given, **more):
        opened.append(Path(self.lock_file).parent)
        return acquire(self, *given, **more)

    monkeypatch.setattr(FileLock, "acquire", watched)
    _published(tmp_path / "out")
    assert left not in opened
    assert (tmp_path / "precious").read_text() == "theirs"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("policies", [["a.yaml"], ["a.yaml", "b.yaml"]])
def test_what_stands_for_a_report_and_is_no_file_is_not_opened(tmp_path, unopened, name, policies):
    """Opening a pipe does not end, and reading a device takes all memory; a repository may hold a link to one."""
    for folder in (tmp_path, tmp_path / "a"):
        folder.mkdir(exist_ok=True)
        os.mkfifo(folder / name)
        unopened(folder / name)
    with pytest.raises(ReportError, match=rf"{name} is there, but .*move it away, or choose another output folder"):
        outputs(tmp_path, [Path(policy) for policy in policies])
    try_to_remove_earlier(tmp_path, [Path(policy) for policy in policies])
    assert (tmp_path / name).is_fifo()


@pytest.mark.parametrize("name", REPORTS)
def test_a_link_to_a_device_that_stands_for_a_report_is_not_read(tmp_path, unopened, name):
    (tmp_path / name).symlink_to(os.devnull)
    unopened(tmp_path / name)
    with pytest.raises(ReportError, match=rf"{name} is there, but .*move it away, or choose another output folder"):
        outputs(tmp_path, [Path("a.yaml")])


def test_a_note_that_is_no_file_is_not_read(tmp_path, unopened):
    (tmp_path / NOTE).symlink_to(os.devnull)
    unopened(tmp_path / NOTE)
    _published(tmp_path)
    assert _names(tmp_path) == REPORTS


def test_a_link_to_a_report_of_ours_says_so_as_the_report_does(tmp_path):
    """As of files that DVC keeps in its cache."""
    _published(tmp_path / "kept")
    (tmp_path / "report.json").symlink_to(tmp_path / "kept" / "report.json")
    _published(tmp_path)
    assert _names(tmp_path / "kept") == REPORTS
    assert not (tmp_path / "report.json").is_symlink()


def test_a_report_whose_keys_were_sorted_is_ours_and_only_so_much_of_it_is_read(tmp_path, monkeypatch):
    sorted_keys = json.dumps({"policy": "x" * 10_000, "schema": "robustcheck/report/1"})
    (tmp_path / "report.json").write_text(sorted_keys)
    monkeypatch.setattr("robustcheck.report.output._MOST", len(sorted_keys) - 1)
    with pytest.raises(ReportError, match=r"report\.json is there, but "):
        outputs(tmp_path, [Path("a.yaml")])
    monkeypatch.setattr("robustcheck.report.output._MOST", len(sorted_keys))
    _published(tmp_path)
    assert _names(tmp_path) == REPORTS
