"""Reports that were forged with little work: what a run has to state is missing, doubled, or is no number."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from building import brightness_project, flat_images
from forging import patients_project, run_in
from PIL import Image

import robustcheck
from robustcheck import load_policy
from robustcheck.evaluation import weak_passes
from robustcheck.evaluation.findings import CODES, NOTHING_TO_FOLLOW
from robustcheck.evaluation.health.checks import MEANINGS
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.replay.replaying import replay
from robustcheck.report.pictures import read_stored
from robustcheck.results import AuditReport

GATES = """
  - {id: clean, require: {accuracy: 1, auroc: 0.9}}
  - {id: pgd, attack: {name: pgd, steps: 10}, epsilon: [2/255, 8/255], require: {accuracy: 0, auroc: 0}}
  - {id: seen, attack: {name: pgd, steps: 4}, epsilon: 8/255, conditions: {brightness: 0.001}, require: {accuracy: 0}}
  - {id: patch, attack: {name: patch, steps: 10, train_on: 0.5}, size: 40%, require: {accuracy: 0}}
  - {id: given, attack: {name: patch, patch: given.png}, size: 40%, require: {attack_success: '>= 0.1'}}
  - {id: transfer, attack: {name: transfer, surrogate: brightness.safetensors}, epsilon: 2/255, require: {accuracy: 0}}
"""
STICKERS = """
  - id: stickers
    attack:
      {name: rp2, stickers: [0, 0, 0.5, 1], steps: 20, step_size: 0.2, distances: [1], angles: [0], printable: [0, 1]}
    conditions: {contrast: [0.99, 1.01], draws: 2}
    require: {accuracy: 0}
"""
LADDERS = """
  - {id: down, attack: {name: pgd, steps: 10}, epsilon: [6/255, 2/255], ladder: descending, require: {accuracy: 0}}
  - {id: fmn, attack: {name: fmn, steps: 40}, epsilon: [2/255, 6/255], require: {accuracy: 0}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A project whose policy was run."""
    folder = patients_project(tmp_path_factory.mktemp("ran"))
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "given.png")
    return run_in(folder, GATES, data="source: patients.csv, subgroups: [sex]")


def _run_of(tmp_path_factory, name, gates, **policy):
    folder = tmp_path_factory.mktemp(name)
    brightness_project(folder)
    return run_in(folder, gates, **policy)


@pytest.fixture(scope="module")
def stickers(tmp_path_factory):
    """One with stickers."""
    return _run_of(tmp_path_factory, "stickers", STICKERS)


@pytest.fixture(scope="module")
def ladders(tmp_path_factory):
    """One whose gates stand for one another."""
    return _run_of(tmp_path_factory, "ladders", LADDERS)


def _broken(gate):
    return [one for one in gate["samples"] if one["status"] == "broken"]


def test_what_nobody_altered_agrees(amiss, ran, stickers, ladders):
    assert [amiss(folder) for folder in (ran, stickers, ladders)] == ["", "", ""]
    report = AuditReport.from_json((ran / "out" / "report.json").read_text())
    assert all(any(one.status == "broken" for one in gate.samples) for gate in report.gates[1:])


# --- areas -----------------------------------------------------------------------------------------------------------


def _scores(gate, value, status="broken"):
    def alter(gates):
        for one in gates[gate]["samples"]:
            if one["status"] == status:
                one["score"] = value

    return alter


def _area(**changes):
    def alter(gates):
        metric = gates["pgd[8/255]"]["metrics"]["auroc"]
        metric["value"] -= 1e-4
        metric.update(changes)

    return alter


def test_a_counterexample_without_a_score_is_not_taken_for_the_clean_image(amiss, ran):
    said = amiss(ran, _scores("pgd[8/255]", None))
    assert re.search(r"pgd\[8/255\]: .*its counterexample has the score 0\.\d+, but the report says nothing", said)
    assert "pgd[8/255]: auroc is stated, but is not one of this gate's metrics" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"low": 0.99, "high": 1.0}, "the interval of auroc is stated as 0.99 to 1.0, but is one around it from 0."),
        ({"high": 0.0}, "the interval of auroc is stated as "),
        ({"low": None}, "the interval of auroc is stated as None to "),
        ({"low": None, "high": None}, "the interval of auroc is stated as None to None"),
        ({"confidence": 0.5}, "the interval of auroc is stated to hold with 0.5, but holds with 0.95"),
        ({"samples": 100_000}, "auroc is stated about other samples than it is"),
        ({"groups": 6}, "auroc is stated about other samples than it is"),
        ({"slice": "sex=F"}, "auroc is stated about other samples than it is"),
        ({"successes": 3}, "auroc is stated about other samples than it is"),
        ({"value": None}, "auroc is stated as None, but is at most 0."),
        ({"value": "NaN"}, "auroc is stated as nan, but is at most 0."),
    ],
)
def test_an_area_below_the_most_that_it_may_be_is_about_the_gate_s_samples(amiss, ran, changes, said):
    assert amiss(ran, _area()) == ""
    assert f"pgd[8/255]: {said}" in amiss(ran, _area(**changes))


@pytest.mark.parametrize("groups", [None, np.arange(30) // 2])
def test_no_area_has_an_interval_that_begins_higher_than_the_steadiest_of_its_value(groups):
    draw, positive = np.random.default_rng(0), np.arange(30) < 12
    lows = []
    for skew in (0.05, 0.3, 1, 3):
        for _ in range(40):
            scores = np.round(draw.beta(skew, skew, 30) + positive * draw.uniform(0, 1), 2)
            area = Intervals().auroc(scores, positive, groups)
            lows.append((area.low, Intervals(area=area.value).auroc(scores, positive, groups).low))
    assert all(low <= steadiest + 1e-9 for low, steadiest in lows)
    assert any(low < steadiest - 0.01 for low, steadiest in lows)


@pytest.mark.parametrize("status", ["held", "broken"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", -0.1, 1.5])
def test_a_score_that_is_no_probability_is_none(amiss, ran, status, value):
    for gate in ("pgd[8/255]", "seen"):
        said = amiss(ran, _scores(gate, value, status))
        assert re.search(rf"{re.escape(gate)}: .*: its score is stated as (nan|inf|-0.1|1.5), which it cannot be", said)


def test_under_conditions_a_counterexample_scores_no_better_than_the_clean_image(amiss, tmp_path):
    """One bright image is darker than one that is labelled dark: of clean images the area is 11/12."""
    brightness_project(tmp_path)
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    flat_images(tmp_path, (100, 120, 126, 131, 129, 140, 160), labels)
    gate = "{name: pgd, steps: 4}, epsilon: 8/255, conditions: {brightness: 0.001}, require: {accuracy: 0}"
    run_in(tmp_path, f"  - {{id: seen, attack: {gate}}}")
    assert amiss(tmp_path) == ""

    def alter(gates):
        for one in _broken(gates["seen"]):
            one["score"] = 1.0 if one["label"] == "bright" else 0.0
        all_right = Intervals().auroc(labels, labels > 0)
        gates["seen"]["metrics"]["auroc"].update(value=1.0, low=all_right.low, high=1.0)

    assert "seen: auroc is stated as 1.0, but is at most 0.91666" in amiss(tmp_path, alter)


def test_costs_and_curves_are_numbers(amiss, ran):
    def alter(gates):
        gates["pgd[2/255]"]["cost"]["forward"] = -1
        gates["pgd[2/255]"]["cost"]["queries"]["median"] = "NaN"
        gates["patch"]["curve"] = [{"levels": "Infinity", "accuracy": 2}]

    said = amiss(ran, alter)
    assert "pgd[2/255]: cost.forward is stated as -1, which it cannot be" in said
    assert "pgd[2/255]: cost.queries.median is stated as nan, which it cannot be" in said
    assert "patch: curve.0.levels is stated as inf, which it cannot be" in said
    assert "patch: curve.0.accuracy is stated as 2.0, which it cannot be" in said
    assert "patch: it states a curve over budgets, which its attack does not give" in said


# --- where gates stop ------------------------------------------------------------------------------------------------


def _prefix(known, folder, needed, rule, *, decided):
    """A report's gate about as many samples as its forger likes."""
    setting = known[folder].setting
    first = {setting.samples.names[number] for number in setting.order[:needed]}

    def alter(gates):
        gate = gates["pgd"]
        gate["samples"] = [one for one in gate["samples"] if one["sample"] in first]
        gate["stopped"] = {"rule": rule, "needed": needed, "of": len(setting.order), "decided": decided}

    return alter


@pytest.mark.parametrize("rule", ["early", "determined"])
def test_a_gate_stops_where_its_rule_lets_it(amiss, known, tmp_path, rule):
    brightness_project(tmp_path, levels=(100, 110, 120, 121, 126, 122, 129, 133, 135, 140, 150, 160))
    gates = "  - {id: pgd, attack: {name: pgd, steps: 6}, epsilon: 4/255, require: {accuracy: 0.9}}"
    run_in(tmp_path, gates, extra=f"decision: {{stop: {rule}}}")
    assert amiss(tmp_path) == ""
    undecided = amiss(tmp_path, _prefix(known, tmp_path, 3, rule, decided=False))
    assert f"pgd: it is stated to be not decided by the rule {rule} with 3 of 12 samples, which cannot be under" in (
        undecided
    )
    other = "determined" if rule == "early" else "early"
    assert (
        f"pgd: it is stated to be decided by the rule {other} with 1 of 12 samples, which cannot be under stop: {rule}"
        in (amiss(tmp_path, _prefix(known, tmp_path, 1, other, decided=True)))
    )
    for needed in (0, -1):
        stopped = {"rule": rule, "needed": needed, "of": 12, "decided": True}
        said = amiss(tmp_path, lambda gates, stopped=stopped: gates["pgd"].update(stopped=stopped))
        assert f"with {needed} of 12 samples, which cannot be under" in said
    beyond = _prefix(known, tmp_path, 13, rule, decided=False)
    assert "with 13 of 12 samples, which cannot be under" in amiss(tmp_path, beyond)
    assert "pgd: it does not state with how many samples it was decided" in (
        amiss(tmp_path, lambda gates: gates["pgd"].update(stopped=None))
    )
    decided = amiss(tmp_path, _prefix(known, tmp_path, 1, rule, decided=True))
    assert "pgd: it is stated to be decided with 1 sample, but by what it states it is not" in decided
    # Two of eleven are turned: the last sample cannot change the verdict, and no interval has decided it.
    decided = amiss(tmp_path, _prefix(known, tmp_path, 11, rule, decided=True))
    assert ("pgd: it is stated to be decided with 11 samples, but by what it states" in decided) == (rule == "early")


def test_a_gate_that_goes_on_does_not_stop(amiss, ran):
    stopped = {"rule": "determined", "needed": 12, "of": 12, "decided": False}
    for gate in ("clean", "pgd[2/255]", "patch"):
        said = amiss(ran, lambda gates, gate=gate: gates[gate].update(stopped=stopped))
        assert f"{gate}: it is stated to have stopped with 12 of 12 samples, but should have gone on" in said


# --- what there has to be --------------------------------------------------------------------------------------------

PATCH = {"picture": None, "array": None, "sha256": "0", "side": 3, "origin": "nowhere"}
SHARE = {"value": 0.0, "low": 0.0, "high": 1.0, "successes": 0, "samples": 12}


@pytest.mark.parametrize(
    ("gate", "changes", "said"),
    [
        ("patch", {"controls": []}, "its controls are stated as nothing, but are natural patch, grey patch"),
        ("given", {"controls": []}, "its controls are stated as nothing, but are natural patch, grey patch"),
        ("seen", {"controls": []}, "its controls are stated as nothing, but are no attack"),
        (
            "pgd[2/255]",
            {"controls": [{"name": "no attack", "success": SHARE}]},
            "its controls are stated as no attack, but are nothing",
        ),
        (
            "seen",
            {"controls": [{"name": "no attack", "success": SHARE | {"samples": 3}}]},
            "no attack: 0 of 3 samples are stated to be turned, but 12 were attacked",
        ),
        (
            "seen",
            {"controls": [{"name": "no attack", "success": SHARE | {"successes": 12, "value": 1.0}}]},
            "no attack: the interval of its success is stated as 0.0 to 1.0, but is 0.7",
        ),
        ("transfer", {"surrogates": []}, "its surrogates are stated as nothing, but are brightness.safetensors"),
        ("patch", {"patch": None}, "it states no patch, but has one for all images"),
        ("given", {"patch": None}, "it states no patch, but has one for all images"),
        ("seen", {"patch": PATCH}, "it states a patch, but has none"),
        (
            "pgd[2/255]",
            {"cells": [{"distance": 1, "angle": 0, "success": SHARE, "control": SHARE}]},
            "it states a grid of 1 place, but is looked at from 0",
        ),
        (
            "pgd[2/255]",
            {"query_curve": [{"queries": 0, "accuracy": 1}]},
            "it states a curve over queries, but asks none",
        ),
    ],
)
def test_what_speaks_against_a_gate_is_neither_left_out_nor_made_up(amiss, ran, gate, changes, said):
    assert f"{gate}: {said}" in amiss(ran, lambda gates: gates[gate].update(changes))


def test_stickers_have_both_their_controls_and_their_grid(amiss, stickers):
    said = amiss(stickers, lambda gates: gates["stickers"].update(controls=[], cells=[]))
    assert "stickers: its controls are stated as nothing, but are no attack, plain stickers" in said
    assert "stickers: it states a grid of 0 places, but is looked at from 1" in said


def test_checks_and_parts_are_stated_once(amiss, ran):
    def alter(gates):
        gates["pgd[2/255]"]["health"].append({"name": "loss-rises", "outcome": "sound", "evidence": ""})
        part = gates["pgd[2/255]"]["slices"][0]
        gates["pgd[2/255]"]["slices"].insert(0, part | {"metrics": {}})

    said = amiss(ran, alter)
    assert "pgd[2/255]: its health check loss-rises is stated 2 times" in said
    assert "pgd[2/255]: sex=F is stated once too often, as a subgroup" in said
    as_finding = amiss(ran, lambda gates: gates["clean"]["slices"][0].update(kind="finding", column=None, name="sex=F"))
    assert "clean: sex=F is stated once too often, as a finding" in as_finding


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_codes_of_findings_are_those_that_are_told():
    sources = [file.read_text(encoding="utf-8") for file in Path(robustcheck.__file__).parent.rglob("*.py")]
    told = {code for text in sources for code in re.findall(r'Finding\(code="([a-z-]+)"', text)}
    of_passes = set(re.findall(r'^        "([a-z-]+)": _', inspect.getsource(weak_passes), re.MULTILINE))
    assert {"tiny-budget", "area-at-most"} <= of_passes
    assert told | of_passes | {NOTHING_TO_FOLLOW} | set(MEANINGS) == CODES


def test_checks_and_findings_that_there_are_not_are_made_up(amiss, ran):
    def alter(gates):
        gates["clean"]["findings"].append({"code": "excellent", "severity": "note", "message": "certified"})
        gates["patch"]["health"].append({"name": "certified", "outcome": "sound", "evidence": "for all"})

    said = amiss(ran, alter)
    assert "clean: it states a finding 'excellent', which does not exist" in said
    assert "patch: it states a health check 'certified', which does not exist" in said


def _with_warning(gates):
    (warning,) = [one for one in gates["given"]["findings"] if one["code"] == "met-by-weakness"]
    return warning


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"severity": "note"}, "its finding met-by-weakness should have the severity warning"),
        (
            {"message": "all is well"},
            "its finding met-by-weakness is stated in other words than: attack_success >= 0.1 is",
        ),
    ],
)
def test_a_warning_is_as_grave_and_in_the_words_that_follow_from_the_samples(amiss, ran, changes, said):
    assert f"given: {said}" in amiss(ran, lambda gates: _with_warning(gates).update(changes))


def test_another_version_s_warnings_are_in_its_own_words(ran, tmp_path):
    folder = shutil.copytree(ran, tmp_path / "copy")
    report = json.loads((folder / "out" / "report.json").read_text())
    report["environment"]["robustcheck"] = "0.0.1"
    _with_warning({gate["id"]: gate for gate in report["gates"]})["message"] = "as it was worded then"
    stated = AuditReport.from_json(json.dumps(report))
    assert replay(load_policy(folder / "policy.yaml"), stated, partial(read_stored, folder / "out")).agrees


@pytest.mark.parametrize(
    ("severity", "check", "excused"),
    [
        ("note", "gradients", False),
        ("warning", "gradients", True),
        ("warning", "gradient-explains", False),
        ("warning", "same-answers", False),
    ],
)
def test_that_there_was_nothing_to_follow_excuses_what_says_no_more(amiss, ran, severity, check, excused):
    def alter(gates):
        gate = gates["pgd[2/255]"]
        (one,) = [one for one in gate["health"] if one["name"] == check]
        one["outcome"] = "suspect"
        gate["findings"].append({"code": "no-usable-gradient", "severity": severity, "message": "nothing"})

    said = f"pgd[2/255]: {check} is not among its findings, but what it states calls for it"
    assert (said not in amiss(ran, alter)) == excused


# --- patches that are given, and clean images ------------------------------------------------------------------------


@pytest.fixture
def project(ran, tmp_path):
    """A copy, to be altered."""
    return shutil.copytree(ran, tmp_path / "copy", ignore=shutil.ignore_patterns("junit.xml", "report.html"))


def test_a_patch_that_the_policy_names_is_the_one_that_was_judged(amiss, project):
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(project / "given.png")
    said = amiss(project)
    assert re.search(r"given: its patch is stated to have the sha256 \w+, but the one that the policy names has", said)
    assert "under the patch its counterexample is not what given.png looks like there" in said
    other = amiss(project, lambda gates: gates["given"]["patch"].update(origin="given: other.png", side=7))
    assert "given: its patch is stated to have the origin given: other.png, but the one" in other
    assert "given: its patch is stated to have the side 7, but the one" in other


def test_a_clean_image_beside_a_counterexample_is_the_sample_s(amiss, project):
    files = sorted((project / "out" / "counterexamples" / "clean").glob("*.png"))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(files[0])
    said = amiss(project)
    assert f"the clean image in 'counterexamples/clean/{files[0].name}' is not the sample's" in said


# --- samples that held in another gate's search ----------------------------------------------------------------------


def _inherited(gate):
    def alter(gates):
        for one in gates[gate]["samples"]:
            if one["status"] == "held" and one["evidence"]:
                one["evidence"] = "inherited"

    return alter


def test_gates_of_a_ladder_stand_for_one_another(ladders):
    report = AuditReport.from_json((ladders / "out" / "report.json").read_text())
    inherited = {
        gate.id for gate in report.gates for one in gate.samples if (one.status, one.evidence) == ("held", "inherited")
    }
    assert inherited == {"down[2/255]", "fmn[6/255]"}


@pytest.mark.parametrize("gate", ["down[6/255]", "fmn[2/255]"])
def test_nothing_is_inherited_from_nobody(amiss, ladders, gate):
    assert f"{gate}: test/0: it is stated to have held in another gate's search, but no gate here has one" in (
        amiss(ladders, _inherited(gate))
    )


@pytest.mark.parametrize("gate", ["pgd[2/255]", "pgd[8/255]", "transfer", "patch"])
def test_gates_that_nobody_stands_for_searched_themselves(amiss, ran, gate):
    assert "it is stated to have held in another gate's search, but no gate here has one" in (
        amiss(ran, _inherited(gate))
    )


def test_what_is_inherited_was_searched_where_it_comes_from(amiss, ladders):
    def alter(gates):
        for one in gates["down[6/255]"]["samples"]:
            if one["status"] == "held":
                one["evidence"] = "unstarted"

    assert "down[2/255]: test/0: it is stated to have held in another gate's search" in amiss(ladders, alter)
