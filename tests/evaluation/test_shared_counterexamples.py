"""Counterexamples that several gates have are read once, and what each gate states of them is compared all the same."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from functools import partial

import numpy as np
import pytest
from building import brightness_project
from forging import run_in
from PIL import Image

from robustcheck import load_policy
from robustcheck.data import Samples
from robustcheck.evaluation.patches import making
from robustcheck.evaluation.replay.replaying import replay
from robustcheck.models import Candidate
from robustcheck.report import pictures, read_report

SMALL, LARGE = "pgd[2/255]", "pgd[4/255]"
DOWN = "{name: pgd, steps: 6}, epsilon: [7/255, 3/255], ladder: descending, goal: missed_finding"
GATES = f"""
  - {{id: pgd, attack: {{name: pgd, steps: 6}}, epsilon: [2/255, 4/255], require: {{accuracy: 0}}}}
  - {{id: l2, attack: {{name: pgd, steps: 6}}, norm: l2, epsilon: [20 levels, 30 levels], require: {{accuracy: 0}}}}
  - {{id: down, attack: {DOWN}, require: {{accuracy: 0}}}}
  - {{id: given, attack: {{name: patch, patch: given.png}}, size: 40%, require: {{attack_success: '>= 0.1'}}}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A project whose policy was run, two images at a time."""
    folder = tmp_path_factory.mktemp("ran")
    brightness_project(folder)
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "given.png")
    return run_in(folder, GATES, model="batch_size: 2")


@pytest.fixture
def project(ran, tmp_path):
    """A copy, to be altered."""
    return shutil.copytree(ran, tmp_path / "copy")


def _replayed(folder, progress=None):
    """What came of it, by gate."""
    policy, report = load_policy(folder / "policy.yaml"), read_report(folder / "out" / "report.json")
    found = replay(policy, report, partial(pictures.read_stored, folder / "out"), progress=progress)
    return {gate.id: gate for gate in found.gates}


def _altered(folder, alter):
    """What came of it once a report says something else of samples; they are by gate, and by name."""
    path = folder / "out" / "report.json"
    report = json.loads(path.read_text())
    alter({gate["id"]: {one["sample"]: one for one in gate["samples"]} for gate in report["gates"]})
    path.write_text(json.dumps(report))
    return _replayed(folder)


def _inherited(gates):
    """What the larger gate states of a counterexample that it has from the smaller one."""
    return next(one for one in gates[LARGE].values() if one["found_by"] == SMALL)


def test_each_is_decoded_and_asked_about_once(ran, monkeypatch):
    broken = Counter[str]()
    for gate in json.loads((ran / "out" / "report.json").read_text())["gates"]:
        broken.update(one["counterexample"] for one in gate["samples"] if one["status"] == "broken")
    assert max(broken.values()) == 2
    opened, asked, content_of, logits = Counter[str](), list[int](), pictures.content_of, Candidate.logits

    def opening(folder, name, most):
        opened[name] += 1
        return content_of(folder, name, most)

    def asking(candidate, images):
        asked.append(len(images))
        return logits(candidate, images)

    monkeypatch.setattr(pictures, "content_of", opening)
    monkeypatch.setattr(Candidate, "logits", asking)
    found = _replayed(ran)
    assert {name: opened[name] for name in broken} == dict.fromkeys(broken, 1)
    assert sum(asked) == len(broken)
    assert sum(gate.read for gate in found.values()) == sum(broken.values())
    assert not [gate.amiss for gate in found.values() if gate.amiss]


def test_no_more_are_held_than_are_asked_about_together(ran, monkeypatch):
    asked, logits = list[int](), Candidate.logits
    monkeypatch.setattr(Candidate, "logits", lambda one, images: (asked.append(len(images)), logits(one, images))[1])
    _replayed(ran)
    assert max(asked) == 2


def test_clean_images_are_decoded_once_for_gates_that_share(project, monkeypatch):
    path, decoded, image = project / "out" / "report.json", Counter[int](), Samples.image
    report = json.loads(path.read_text())
    *gates, _patch = report["gates"]
    path.write_text(json.dumps(report | {"gates": gates, "not_run": ["given"]}))
    monkeypatch.setattr(Samples, "image", lambda one, index: (decoded.update([index]), image(one, index))[1])

    def told(what, _done, _of):
        if what != "reading again":  # the candidate is loaded, and nothing was read yet
            decoded.clear()

    _replayed(project, progress=told)
    broken = [{one["sample"] for one in gate["samples"] if one["status"] == "broken"} for gate in gates]
    assert sum(decoded.values()) == sum(len(broken[at] | broken[at + 1]) for at in (0, 2, 4))
    down = [{one["counterexample"] for one in gate["samples"] if one["sample"] in broken[5]} for gate in gates[4:]]
    assert down[0].isdisjoint(down[1])  # each of these has two


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": "0" * 64}, "the pixels in its file are not those whose digest the report states"),
        ({"distance_levels": 1.5}, "levels off, but the report says 1.5"),
        ({"attacked": "nothing"}, "but the report says nothing"),
        ({"score": 0.123}, "but the report says 0.123"),
    ],
)
def test_each_gate_answers_for_what_it_states(project, changes, said):
    name = []

    def alter(gates):
        one = _inherited(gates)
        name.append(one["sample"])
        one |= changes

    found = _altered(project, alter)
    assert [one for one in found[LARGE].amiss if one.startswith(f"{name[0]}: ") and said in one]
    assert not found[SMALL].amiss


def test_what_is_altered_in_the_gate_that_found_it_is_not_said_of_those_that_have_it_from_it(project):
    found = _altered(project, lambda gates: gates[SMALL][_inherited(gates)["sample"]].update(sha256="0" * 64))
    assert [one for one in found[SMALL].amiss if "not those whose digest" in one]
    assert not found[LARGE].amiss
    assert (found[SMALL].read, found[LARGE].read) == (found[SMALL].stated - 1, found[LARGE].stated)


def test_one_that_lies_in_the_larger_budget_does_not_lie_in_the_smaller(project):
    def alter(gates):
        far = next(one for one in gates[LARGE].values() if one["found_by"] == LARGE)
        gates[SMALL][far["sample"]].update(far)

    found = _altered(project, alter)
    assert [one for one in found[SMALL].amiss if "its counterexample lies outside the budget" in one]
    assert not [one for one in found[LARGE].amiss if "its counterexample" in one]


def test_a_patch_that_is_given_is_read_once_a_gate(ran, monkeypatch):
    read, read_patch = list[str](), making.read_patch

    def reading(name, *arguments, **options):
        read.append(name)
        return read_patch(name, *arguments, **options)

    monkeypatch.setattr(making, "read_patch", reading)
    assert _replayed(ran)["given"].stated > 2  # more than are asked about together
    assert read == ["given.png"]


def test_a_gate_with_a_patch_that_could_not_be_evaluated_keeps_nothing_from_being_read(tmp_path):
    brightness_project(tmp_path)
    patch = "{name: patch, train_on: 0.001}, size: 20%"
    gates = f"""
  - {{id: pgd, attack: pgd, epsilon: 4/255, require: {{accuracy: 0}}}}
  - {{id: patch, attack: {patch}, require: {{accuracy: 0}}}}
"""
    found = _replayed(run_in(tmp_path, gates))
    assert found["pgd"].read > 0
    assert [gate.amiss for gate in found.values()] == [(), ()]
