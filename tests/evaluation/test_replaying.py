"""A report's evidence, checked by one who was not there: what is as it states it, and what was altered since."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch
from building import (
    brightness_manifest,
    brightness_policy,
    brightness_project,
    flat_images,
    three_levels,
    three_levels_policy,
)
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from robustcheck.cli import main
from robustcheck.digests import pixels_sha256
from robustcheck.evaluation.looks.conditions import Grid

GATES = """
  - {id: clean, require: {accuracy: 1}}
  - {id: pgd, attack: {name: pgd, steps: 10}, epsilon: [2/255, 4/255], require: {accuracy: 0}}
  - {id: l2, attack: {name: pgd, steps: 10}, norm: l2, epsilon: 20 levels, goal: missed_finding, require: {accuracy: 0}}
  - {id: patch, attack: {name: patch, steps: 20, train_on: 0.5}, size: 40%, require: {accuracy: 0}}
  - id: stickers
    attack:
      {name: rp2, stickers: [0, 0, 0.5, 1], steps: 60, step_size: 0.2, distances: [1], angles: [0], printable: [0, 1]}
    conditions: {contrast: [0.99, 1.01], draws: 2}
    require: {accuracy: 0}
  - {id: seen, attack: {name: pgd, steps: 4}, epsilon: 8/255, conditions: {brightness: 0.01}, require: {accuracy: 0}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A project with a policy that was run."""
    folder = tmp_path_factory.mktemp("ran")
    brightness_project(folder)
    (folder / "policy.yaml").write_text(brightness_policy(GATES))
    assert CliRunner().invoke(main, ["run", str(folder / "policy.yaml"), "-o", str(folder / "out")]).exit_code == 0
    return folder


@pytest.fixture
def project(ran, tmp_path):
    """A copy, to be altered, without the pages that would have to be made again of what is altered."""
    return shutil.copytree(ran, tmp_path / "copy", ignore=shutil.ignore_patterns("junit.xml", "report.html"))


def _replay(folder):
    return CliRunner().invoke(main, ["replay", str(folder / "out" / "report.json"), str(folder / "policy.yaml")])


def _broken(report, gate):
    return next(
        outcome
        for one in report["gates"]
        if one["id"] == gate
        for outcome in one["samples"]
        if outcome["status"] == "broken"
    )


def test_areas_of_a_candidate_that_is_sure_are_those_of_its_log_odds_and_agree(tmp_path):
    """All levels are so bright that in float32 their probabilities would be 1."""
    brightness_project(tmp_path)
    flat_images(tmp_path, (240, 244, 251, 253), [0, 0, 1, 1])
    gates = """
  - {id: clean, require: {auroc: 1}}
  - {id: higher, attack: {name: pgd, steps: 2}, epsilon: 3/255, require: {auroc: 1}}
  - {id: over, attack: {name: pgd, steps: 2}, epsilon: 9/255, goal: missed_finding, require: {auroc: 0.5}}
"""
    (tmp_path / "policy.yaml").write_text(brightness_policy(gates))
    CliRunner().invoke(main, ["run", str(tmp_path / "policy.yaml"), "-o", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [gate["metrics"]["auroc"]["value"] for gate in report["gates"]] == [1, 1, 0.625]
    assert len({outcome["score"] for outcome in report["gates"][0]["samples"]}) == 4
    result = _replay(tmp_path)
    assert result.output.splitlines()[-1].startswith("AGREES"), result.output


def _altered(folder, gate, **changes):
    """The report, with something else said of a gate's first broken sample."""
    path = folder / "out" / "report.json"
    report = json.loads(path.read_text())
    outcome = _broken(report, gate)
    outcome |= changes
    path.write_text(json.dumps(report))
    return outcome


def test_a_report_that_nobody_altered_agrees(ran):
    report = json.loads((ran / "out" / "report.json").read_text())
    result = _replay(ran)
    assert result.exit_code == 0, result.output
    broken = {gate["id"]: sum(outcome["status"] == "broken" for outcome in gate["samples"]) for gate in report["gates"]}
    assert all(broken[gate] for gate in ("pgd[2/255]", "pgd[4/255]", "l2", "patch", "stickers", "seen"))
    read = sum(broken.values()) - broken["seen"]
    held = sum(one["status"] == "held" and bool(one["evidence"]) for gate in report["gates"] for one in gate["samples"])
    assert result.output.splitlines()[-1] == (
        f"AGREES: {sum(broken.values())} counterexamples stated, {read} read again, 0 things amiss; "
        f"that {held} samples held is taken as stated: run the policy again to check it"
    )
    assert "seen: not read again: they hold on a share of looks, each under conditions of its own" in result.output
    assert "pgd[4/255]: as stated, not counted again: auroc (except that it is no larger)" in result.output
    assert "clean: as stated" not in result.output
    said = " ".join(result.output.split())
    assert (
        "the report: as stated, not compared: environment, policy.path, model.notes, started, seconds, interrupted"
        in said
    )


def test_all_of_it_is_in_full_precision(project, monkeypatch):
    """How stickers are viewed, too, which the candidate does not compute."""
    seen, view = set(), Grid.__call__

    def watched(self, *arguments):
        seen.add(torch.backends.mkldnn.matmul.fp32_precision)
        return view(self, *arguments)

    monkeypatch.setattr(Grid, "__call__", watched)
    torch.set_float32_matmul_precision("medium")
    try:
        assert _replay(project).exit_code == 0
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == {"ieee"}


@pytest.mark.parametrize(
    ("gate", "changes", "said"),
    [
        ("pgd[4/255]", {"sha256": "0" * 64}, "the pixels in its file are not those whose digest the report states"),
        ("pgd[4/255]", {"distance_levels": 1}, "levels off, but the report says 1"),
        ("pgd[4/255]", {"distance_levels": None}, "levels off, but the report says nothing"),
        ("seen", {"distance_levels": 1}, "levels off, but the report says 1"),
        ("pgd[4/255]", {"counterexample": None}, "its counterexample has no file, or one that is no stored image"),
        ("pgd[4/255]", {"counterexample": "../flat.npz"}, "has no file, or one that is no stored image"),
        ("pgd[4/255]", {"sample": "nobody"}, "nobody: the data have no such sample"),
        ("stickers", {"distance_levels": 1}, "levels off, but the report says 1"),
        ("patch", {"sha256": "0" * 64}, "the pixels in its file are not those whose digest the report states"),
    ],
)
def test_what_was_altered_in_the_report_is_said(gate, changes, said, project):
    _altered(project, gate, **changes)
    result = _replay(project)
    assert result.exit_code == 1
    assert f"{gate}: " in result.output
    assert said in " ".join(result.output.split())
    assert "1 thing amiss" in result.output


def test_readings_that_are_others_are_said(project):
    outcome = _altered(project, "pgd[4/255]", attacked="nothing", clean="nothing")
    result = _replay(project)
    assert result.exit_code == 1
    read = "dark" if outcome["label"] == "bright" else "bright"
    assert f"its counterexample is read as {read}, but the report says nothing" in result.output
    assert f"the clean image is read as {outcome['label']}, but the report says nothing" in result.output


def test_an_image_beyond_the_budget_is_none_whatever_its_digest(project):
    far = np.full((8, 8), 200, np.uint8)
    file = "counterexamples/far.png"
    Image.fromarray(far).save(project / "out" / file)
    _altered(project, "pgd[2/255]", counterexample=file, sha256=pixels_sha256(far[None]), attacked="bright")
    result = _replay(project)
    assert result.exit_code == 1
    assert "its counterexample lies outside the budget" in result.output


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((8, 8), 121, np.uint8), "is read as dark, which is not what the adversary wants"),
        (np.full((4, 16), 130, np.uint8), "has another shape, or other levels, than the samples"),
        (np.full((8, 8), 256, np.uint16), "has another shape, or other levels, than the samples"),
    ],
    ids=["right", "shape", "levels"],
)
def test_an_image_that_is_no_counterexample_is_none(image, said, project):
    file = "counterexamples/other.png"
    Image.fromarray(image).save(project / "out" / file)
    path = project / "out" / "report.json"
    report = json.loads(path.read_text())
    (gate,) = [one for one in report["gates"] if one["id"] == "pgd[4/255]"]
    held = gate["samples"][1]
    assert (held["clean"], held["status"]) == ("dark", "held")  # of level 120
    held |= {"status": "broken", "counterexample": file, "sha256": pixels_sha256(image[None])}
    held |= {"found_by": "pgd[4/255]", "restart": 0, "step": 1, "distance_levels": 1}
    path.write_text(json.dumps(report))
    result = _replay(project)
    assert result.exit_code == 1
    assert f"test/1: its counterexample {said}" in " ".join(result.output.split())


def _said(folder, alter):
    """What is said of a report that was altered."""
    path = folder / "out" / "report.json"
    report = json.loads(path.read_text())
    alter(report, {gate["id"]: gate for gate in report["gates"]})
    path.write_text(json.dumps(report))
    result = _replay(folder)
    assert result.exit_code == 1, result.output
    return " ".join(result.output.split())


def test_a_counterexample_of_an_image_that_was_not_to_be_attacked_is_none(project):
    def alter(_report, gates):
        held = next(one for one in gates["l2"]["samples"] if one["label"] == "dark")  # whom missed_finding spares
        held |= {"status": "broken", "evidence": "searched"}

    assert "it was not to be attacked" in _said(project, alter)


def test_figures_are_counted_again(project):
    def alter(_report, gates):
        gates["pgd[4/255]"]["metrics"]["accuracy"] |= {"value": 1.0, "successes": 10}
        gates["pgd[2/255]"]["metrics"]["sensitivity"] |= {"value": 0.25}
        gates["l2"]["requirements"][0]["met"] = False
        gates["clean"]["verdict"] = "fail"
        gates["clean"]["samples"][1] |= {"status": "wrong"}

    said = _said(project, alter)
    broken = sum(one["status"] == "broken" for one in _of(project, "pgd[4/255]")["samples"])
    assert f"pgd[4/255]: accuracy is stated as 10 of 10, but by its samples it is {10 - broken} of 10" in said
    assert "pgd[2/255]: sensitivity is stated as 0.25, but is" in said
    assert "l2: its requirements are not those of the policy, compared with what is stated as measured" in said
    assert "clean: its verdict is fail, but by its requirements it is pass" in said
    assert "clean: accuracy is stated as 10 of 10, but by its samples it is 9 of 10" in said
    assert "the clean image is read correctly, but the report says that it is not" in said
    assert "the report: its verdict is pass, but that of its gates is fail" in said


def _of(folder, gate):
    report = json.loads((folder / "out" / "report.json").read_text())
    return next(one for one in report["gates"] if one["id"] == gate)


def test_an_emptied_report_does_not_agree(project):
    said = _said(project, lambda report, _gates: report.update(gates=[]))
    assert "the report: its gates, and those that were not run, are not the policy's, each once" in said


def test_a_gate_that_was_run_is_none_that_was_not(project):
    said = _said(project, lambda report, _gates: report.update(not_run=["clean"]))
    assert "the report: its gates, and those that were not run, are not the policy's, each once" in said


def test_samples_that_were_taken_out_or_told_twice_are_missed(project):
    def alter(_report, gates):
        gates["pgd[4/255]"]["samples"].pop()
        gates["pgd[2/255]"]["samples"][0] = gates["pgd[2/255]"]["samples"][1]

    said = _said(project, alter)
    assert "pgd[4/255]: it has 9 samples, but is about 10" in said
    assert "pgd[2/255]: it has a sample twice" in said


def _emptied(_report, gates):
    gates["pgd[4/255]"]["samples"] = []
    gates["pgd[4/255]"]["metrics"]["accuracy"] |= {"value": 1.0, "successes": 10}


def _shortened(_report, gates):
    """As if the policy let gates stop early."""
    gates["pgd[4/255]"]["stopped"] = {"rule": "early", "needed": 3, "of": 10, "decided": True}
    gates["pgd[4/255]"]["samples"] = gates["pgd[4/255]"]["samples"][:3]


def _never_attacked(_report, gates):
    """What was broken, said to have been none of the goal's business."""
    broken = next(one for one in gates["l2"]["samples"] if one["status"] == "broken")
    broken |= {"status": "held", "attacked": broken["clean"], "evidence": None}
    # Four of ten samples are left to attack, which has to be said.
    said = (
        "the attack had only 4 of 10 samples to turn, because the goal missed_finding is not about 5 of them and 1 "
        "is read wrongly before the attack: the result on so few says little"
    )
    gates["l2"]["findings"].append({"code": "few-attacked", "severity": "warning", "message": said})


def _unmeasured(_report, gates):
    del gates["pgd[4/255]"]["metrics"]["balanced_accuracy"]


def _surer(_report, gates):
    gates["pgd[4/255]"]["metrics"]["accuracy"] |= {"low": 0.9, "high": 1.0}


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (_emptied, "pgd[4/255]: it has 0 samples, but is about 10"),
        (_shortened, "pgd[4/255]: it has 3 samples, but is about 10"),
        (
            lambda _, gates: gates["pgd[4/255]"]["threat"].update(epsilon="8/255"),
            "pgd[4/255]: its attack, parameters or threat model are not those of the policy",
        ),
        (lambda _, gates: gates["patch"]["samples"].pop(), "patch: it has 4 samples, but is about 5"),
        (_never_attacked, "it was to be attacked, but the report says that it was not"),
        (_unmeasured, "pgd[4/255]: balanced_accuracy is not stated"),
        (_surer, "pgd[4/255]: the interval of accuracy is stated as 0.9 to 1.0, but is 0."),
        (
            lambda _, gates: gates["pgd[4/255]"]["metrics"]["balanced_accuracy"].update(value=1.0),
            "pgd[4/255]: balanced_accuracy is stated as 1.0, but is 0.",
        ),
        (
            lambda _, gates: gates["pgd[4/255]"]["samples"][0].update(clean="neither"),
            "it is read as something that the candidate cannot say",
        ),
    ],
)
def test_evidence_that_was_taken_out_is_missed(project, alter, said):
    assert said in _said(project, alter)


def test_a_patched_image_differs_under_the_patch_only(project):
    outcome = _broken(json.loads((project / "out" / "report.json").read_text()), "patch")
    pixels = np.asarray(Image.open(project / "out" / outcome["counterexample"])).copy()
    pixels[0, 0] = pixels[0, 0] - 1 if pixels[0, 0] else 1  # a circle of 40 % covers no corner
    Image.fromarray(pixels).save(project / "out" / outcome["counterexample"])
    _altered(project, "patch", sha256=pixels_sha256(pixels[None]))
    result = _replay(project)
    assert result.exit_code == 1
    assert "its counterexample differs from the sample where the patch does not lie" in result.output


REQUIRED = "{accuracy: 0, ppv: 0, worst_subgroup.sensitivity: 0}"
OF_PARTS = f"""
  - {{id: clean, require: {REQUIRED}}}
  - {{id: pgd, attack: {{name: pgd, steps: 6}}, epsilon: [2/255, 6/255], require: {REQUIRED}}}
  - {{id: nes, attack: nes, queries: 300, epsilon: 6/255, goal: false_alarm, require: {{balanced_accuracy: 0.9}}}}
"""


@pytest.mark.parametrize(
    "decision", ["{}", "{rule: confident, interval: wilson}", "{stop: early}", "{stop: determined}"]
)
def test_figures_of_groups_and_parts_and_of_gates_that_stop_are_those_that_are_counted_again(tmp_path, decision):
    brightness_project(tmp_path)
    rows = [(level, f"p{number}", "FM"[number % 2]) for number, level in enumerate((90, 121, 126, 127, 129, 133, 200))]
    brightness_manifest(tmp_path, rows, images=4)
    data = "source: patients.csv, group: patient, subgroups: [sex], prevalence: 0.1"
    policy = tmp_path / "policy.yaml"
    policy.write_text(brightness_policy(OF_PARTS, data=data, extra=f"decision: {decision}"))
    CliRunner().invoke(main, ["run", str(policy), "-o", str(tmp_path / "out")])
    result = _replay(tmp_path)
    assert result.output.splitlines()[-1].startswith("AGREES"), result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert any(gate["stopped"] and gate["stopped"]["decided"] for gate in report["gates"]) == ("stop" in decision)

    def alter(_report, gates):
        gates["pgd[6/255]"]["slices"][0]["metrics"]["accuracy"] |= {"value": 0.99}

    assert "pgd[6/255]: sex=F: accuracy is stated as 0.99" in _said(tmp_path, alter)


def test_the_policy_is_in_the_report_and_is_the_one_whose_digest_it_states(project):
    report = json.loads((project / "out" / "report.json").read_text())
    assert report["policy"]["text"] == (project / "policy.yaml").read_text()
    assert report["model"]["architecture"] == "brightness:Brightness"
    assert report["model"]["preprocess"]["range"] == [0, 1]
    assert report["model"]["precision"] == "auto"

    def alter(report, _gates):
        report["policy"]["text"] = report["policy"]["text"].replace("accuracy: 0", "accuracy: 0.9")

    assert "the report: its policy's text is not the one whose digest it states" in _said(project, alter)


def test_a_digest_that_is_a_message_to_the_terminal_stays_text(project):
    path = project / "out" / "report.json"
    report = json.loads(path.read_text())
    report["policy"]["sha256"] = "x\n\x1b[2JAGREES"
    path.write_text(json.dumps(report))
    result = _replay(project)
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    assert len(result.output.splitlines()) == 1


def test_a_link_in_a_circle_is_no_file(project):
    file = project / "out" / _broken(json.loads((project / "out" / "report.json").read_text()), "l2")["counterexample"]
    file.unlink()
    file.symlink_to(file.name)
    result = _replay(project)
    assert result.exit_code == 1
    assert "its counterexample has no file" in result.output


def test_a_candidate_that_ends_the_process_is_not_taken_for_agreement(project, monkeypatch):
    from robustcheck.models.candidate import Candidate

    def leaving(_candidate, _images):
        raise SystemExit(0)

    monkeypatch.setattr(Candidate, "logits", leaving)
    assert _replay(project).exit_code == 3


def test_another_policy_candidate_or_data_are_refused(project):
    policy = project / "policy.yaml"
    before = policy.read_text()
    policy.write_text(before + "# changed\n")
    result = _replay(project)
    assert (result.exit_code, "the report is about another policy: its sha256 is" in result.output) == (2, True)
    policy.write_text(before)
    save_file({"threshold": torch.tensor(0.51)}, project / "brightness.safetensors")
    assert "the report is about another candidate" in _replay(project).output
    save_file({"threshold": torch.tensor(0.5)}, project / "brightness.safetensors")
    flat_images(project, (90,) * 10, [0] * 10)
    assert "the report is about another data" in _replay(project).output


def test_code_that_is_not_the_report_s_is_not_run(project, tmp_path):
    module, marker = project / "brightness.py", tmp_path / "it-ran"
    module.write_text(f"{module.read_text()}\nopen({str(marker)!r}, 'w')\n")
    result = _replay(project)
    assert result.exit_code == 2
    assert "the report is about another candidate: the sha256 of 'brightness.py' is" in result.output
    assert not marker.exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_a_folder_of_weights_that_is_a_link(tmp_path):
    """The code beside the policy is named from the folder as it is written, and does not lie above the link's end."""
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    brightness_project(tmp_path)
    (tmp_path / "brightness.safetensors").rename(tmp_path / "elsewhere" / "deep" / "brightness.safetensors")
    (tmp_path / "weights").symlink_to(tmp_path / "elsewhere" / "deep")
    policy = brightness_policy("  - {id: clean, require: {accuracy: 1}}")
    (tmp_path / "policy.yaml").write_text(policy.replace("path: bright", "path: weights/bright"))
    run = CliRunner().invoke(main, ["run", str(tmp_path / "policy.yaml"), "-o", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    result = _replay(tmp_path)
    assert result.exit_code == 0, result.output


def test_a_file_of_another_size_is_not_read(project, monkeypatch):
    """A system's own files may have no end."""
    with (project / "brightness.safetensors").open("ab") as file:
        file.write(b"more")
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("it was read"))
    result = _replay(project)
    assert result.exit_code == 2
    assert " and here it is another, of " in result.output


def test_files_of_a_report_that_are_none(project):
    path = project / "out" / "report.json"
    report = json.loads(path.read_text())
    os.mkfifo(project / "pipe")
    report["model"]["files"][0]["path"] = "pipe"
    path.write_text(json.dumps(report))
    assert "the sha256 of 'pipe' is" in _replay(project).output
    report["model"] = None
    path.write_text(json.dumps(report))
    assert "the report is about no candidate" in _replay(project).output


def test_a_gate_that_the_policy_has_not_is_forged(project):
    path = project / "out" / "report.json"
    report = json.loads(path.read_text())
    report["gates"][0]["id"] = "other"
    path.write_text(json.dumps(report))
    result = _replay(project)
    assert (result.exit_code, "has a gate 'other', which its policy does not have" in result.output) == (2, True)


def test_a_negative_that_is_taken_for_another_one_may_hold_and_is_no_right_one(tmp_path):
    three_levels(tmp_path)
    gate = "{id: alarm, attack: fgsm, epsilon: 4/255, goal: false_alarm, require: {specificity: 0}}"
    (tmp_path / "policy.yaml").write_text(three_levels_policy(f"\n  - {gate}\n"))
    assert CliRunner().invoke(main, ["run", str(tmp_path / "policy.yaml"), "-o", str(tmp_path / "out")]).exit_code == 0
    result = _replay(tmp_path)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("gate", ["clean", "pgd[2/255]"])
def test_what_was_turned_by_nothing_is_read_as_it_was(gate, project):
    path = project / "out" / "report.json"
    report = json.loads(path.read_text())
    (one,) = [one for one in report["gates"] if one["id"] == gate]
    outcome = next(outcome for outcome in one["samples"] if outcome["status"] == "held")
    outcome["attacked"] = "bright" if outcome["clean"] == "dark" else "dark"
    path.write_text(json.dumps(report))
    assert "nothing turned it, but the report says that it is read as" in " ".join(_replay(project).output.split())
