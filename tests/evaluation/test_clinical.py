"""What clinics ask for, under attack: by patient, by subgroup, by finding, at the prevalence where it will be used."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from building import brightness_manifest, brightness_policy, brightness_project

from robustcheck import load_policy, run
from robustcheck.errors import PolicyError
from robustcheck.evaluation.metrics.intervals import Intervals

# Even images of a patient each row: level, patient, sex. Levels of 130 and 125 break at 8/255; 100 and 160 hold.
ROWS = [
    *[(level, f"p{patient}", "F") for patient, level in enumerate([160, 160, 160, 100, 100, 100, 160, 130, 100, 125])],
    *[(level, f"q{patient}", "M") for patient, level in enumerate([160, 100, 130, 130, 125, 125])],
]


def _project(folder, *, images=1):
    """So many images of each patient, of levels so near each other that they break together."""
    brightness_project(folder)
    brightness_manifest(folder, ROWS, images=images)


def _run(folder, data="", *, require="accuracy: 0", gate="attack: fgsm, epsilon: 8/255, ", decision="{}"):
    text = f"  - {{id: gate, {gate}require: {{{require}}}}}"
    policy = brightness_policy(text, data=f"source: patients.csv, bits: 8{data}", extra=f"decision: {decision}")
    (folder / "policy.yaml").write_text(policy)
    return run(load_policy(folder / "policy.yaml"))


# --- by patient ------------------------------------------------------------------------------------------------------


def test_images_of_one_patient_are_worth_less_than_as_many_patients(tmp_path):
    _project(tmp_path, images=5)
    alone, grouped = (_run(tmp_path, data).gates[0].metrics for data in ("", ", group: patient"))
    for name in ("accuracy", "sensitivity", "specificity", "attack_success", "balanced_accuracy", "auroc"):
        assert grouped[name].value == alone[name].value
        assert grouped[name].low < alone[name].low or grouped[name].high > alone[name].high, name
        assert alone[name].groups is None
    assert grouped["accuracy"].groups == len(ROWS)
    assert grouped["sensitivity"].groups == sum(level > 127 for level, *_ in ROWS)
    assert grouped["attack_success"].groups == len(ROWS)
    # All images of a patient break or hold together: they are worth no more than one.
    assert grouped["accuracy"].effective <= len(ROWS)


def test_without_an_attack_too(tmp_path):
    _project(tmp_path, images=2)
    (gate,) = _run(tmp_path, ", group: patient", gate="").gates
    assert gate.metrics["accuracy"].groups == len(ROWS)


def test_the_number_of_patients_is_reported(tmp_path):
    _project(tmp_path, images=2)
    data = _run(tmp_path, ", group: patient, samples: 20").data
    assert data.group == "patient"
    assert 10 <= data.groups <= len(ROWS)


def test_controls_are_by_patient(tmp_path):
    _project(tmp_path, images=2)
    gate = "attack: {name: pgd, steps: 3}, epsilon: 8/255, conditions: {brightness: 0.01, judged_on: 10, draws: 2}, "
    (gate,) = _run(tmp_path, ", group: patient", gate=gate).gates
    assert gate.controls[0].success.groups == len(ROWS)
    assert gate.metrics["control_success"].groups == len(ROWS)


def test_early_decisions_take_more_images_where_they_are_of_few_patients(tmp_path):
    """Images are in a random order, so that one patient's lie apart."""
    _project(tmp_path, images=8)
    decision = "{rule: confident, stop: early}"
    alone, grouped = (
        _run(tmp_path, data, require="accuracy: 0.3", decision=decision).gates[0] for data in ("", ", group: patient")
    )
    assert alone.verdict == grouped.verdict == "pass"
    assert alone.stopped.needed < grouped.stopped.needed
    assert grouped.metrics["accuracy"].effective < alone.stopped.needed + 1 < grouped.metrics["accuracy"].samples


def test_predictive_values_count_the_patients_of_both_rates(tmp_path):
    _project(tmp_path, images=2)
    text = (tmp_path / "patients.csv").read_text()
    (tmp_path / "patients.csv").write_text(text.replace(",p3,", ",p0,"))  # has dark and bright images
    (gate,) = _run(tmp_path, ", group: patient, prevalence: 0.1, subgroups: sex", require="ppv: 0").gates
    metrics = gate.metrics
    assert metrics["sensitivity"].groups + metrics["specificity"].groups == len(ROWS)
    assert metrics["ppv"].groups == metrics["npv"].groups == metrics["accuracy"].groups == len(ROWS) - 1
    assert {part.name: part.metrics["ppv"].groups for part in gate.slices} == {"F": 9, "M": 6}
    (alone,) = _run(tmp_path, ", prevalence: 0.1").gates
    assert alone.metrics["ppv"].groups is None


def test_the_prevalence_is_reported(tmp_path):
    _project(tmp_path)
    assert _run(tmp_path, ", prevalence: 0.1").data.prevalence == (0.1,)
    assert _run(tmp_path).data.prevalence is None


# --- by subgroup -----------------------------------------------------------------------------------------------------


def test_each_subgroup_is_measured(tmp_path):
    _project(tmp_path)
    (gate,) = _run(tmp_path, ", subgroups: [sex]").gates
    found = {(part.column, part.name): part.metrics for part in gate.slices}
    assert list(found) == [("sex", "F"), ("sex", "M")]
    assert found["sex", "F"]["accuracy"].value == 0.8
    assert found["sex", "M"]["accuracy"].value == pytest.approx(2 / 6)
    assert found["sex", "F"]["sensitivity"].value == 0.8  # of 5 bright ones, that of 130 breaks
    assert found["sex", "M"]["specificity"].value == pytest.approx(1 / 3)
    assert found["sex", "M"]["attack_success"].value == pytest.approx(4 / 6)
    assert found["sex", "F"]["accuracy"] == Intervals().rate(np.arange(10) < 8)


@pytest.mark.parametrize(
    ("require", "verdict", "value", "which"),
    [
        ("worst_subgroup.accuracy: 0.4", "fail", 2 / 6, "sex=M"),
        ("worst_subgroup.accuracy: 0.3", "pass", 2 / 6, "sex=M"),
        ("worst_subgroup.sensitivity: 0.5", "fail", 1 / 3, "sex=M"),
        ("worst_subgroup.attack_success: '<= 0.5'", "fail", 4 / 6, "sex=M"),
        ("worst_subgroup.attack_success: '<= 0.7'", "pass", 4 / 6, "sex=M"),
    ],
)
def test_the_worst_subgroup_may_be_required(require, verdict, value, which, tmp_path):
    _project(tmp_path)
    (gate,) = _run(tmp_path, ", subgroups: sex", require=require).gates
    metric = gate.metrics[require.partition(":")[0]]
    assert (gate.verdict, metric.slice) == (verdict, which)
    assert metric.value == pytest.approx(value)
    assert metric.low <= metric.value <= metric.high


def test_confidence_is_about_all_subgroups_together(tmp_path):
    _project(tmp_path)
    (gate,) = _run(tmp_path, ", subgroups: sex", require="worst_subgroup.accuracy: 0.3").gates
    each = [Intervals(confidence=0.975).rate(np.arange(size) < hits) for size, hits in ((10, 8), (6, 2))]
    worst = gate.metrics["worst_subgroup.accuracy"]
    assert worst.low == pytest.approx(min(metric.low for metric in each))
    assert worst.high == pytest.approx(min(metric.high for metric in each))


def test_a_subgroup_without_positives_has_no_sensitivity(tmp_path):
    _project(tmp_path)
    lines = (tmp_path / "patients.csv").read_text().replace("p3-0.png,dark,p3,F", "p3-0.png,dark,p3,X")
    (tmp_path / "patients.csv").write_text(lines)
    (gate,) = _run(tmp_path, ", subgroups: sex", require="worst_subgroup.sensitivity: 0.3").gates
    assert {part.name: part.metrics["sensitivity"].value for part in gate.slices}["X"] is None
    assert gate.metrics["worst_subgroup.sensitivity"].slice == "sex=M"
    assert gate.verdict == "pass"
    (finding,) = [finding for finding in gate.findings if finding.code == "part-not-measured"]
    assert "worst_subgroup.sensitivity is not about sex=X" in finding.message


@pytest.mark.parametrize(("bound", "verdict"), [(0.4, "error"), (0.6, "fail")])
def test_a_subgroup_of_which_nobody_is_read_as_positive_any_more_is_not_left_out(bound, verdict, tmp_path):
    """All women with the finding are turned, and no other woman is read so: their predictive value is 0 / 0."""
    brightness_project(tmp_path)
    levels = {"F": [130, 130, 100, 100], "M": [160, 130, 100, 160], "X": [100]}
    rows = [(level, f"{sex}{place}", sex) for sex, own in levels.items() for place, level in enumerate(own)]
    brightness_manifest(tmp_path, rows)
    text = (tmp_path / "patients.csv").read_text()
    (tmp_path / "patients.csv").write_text(text.replace("M3-0.png,bright", "M3-0.png,dark"))  # a false alarm, clean
    gate, require = "attack: fgsm, epsilon: 8/255, goal: missed_finding, ", f"worst_subgroup.ppv: {bound}"
    (found,) = _run(tmp_path, ", prevalence: 0.5, subgroups: sex", gate=gate, require=require).gates
    assert {part.name: part.metrics["ppv"].value for part in found.slices} == {"F": None, "M": 0.5, "X": None}
    assert found.verdict == verdict  # that of the men may be bad enough by itself
    if verdict == "error":
        assert found.error == (
            "worst_subgroup.ppv (of sex=F) cannot be measured on these samples: it needs samples with and without the "
            "finding, some of which are read as positive"
        )
    else:
        assert found.metrics["worst_subgroup.ppv"].low == 0, "that of the women may be anything"
    (finding,) = [finding for finding in found.findings if finding.code == "part-not-measured"]
    assert "is not about sex=X:" in finding.message


# --- predictive values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prevalence", [0.01, 0.3])
def test_predictive_values_are_those_of_bayes(prevalence, tmp_path):
    _project(tmp_path)
    (gate,) = _run(tmp_path, f", prevalence: {prevalence}", require="ppv: 0, npv: 0").gates
    bright = [level for level, *_ in ROWS if level > 127]
    dark = [level for level, *_ in ROWS if level < 127]
    found, spared = Fraction(bright.count(160), len(bright)), Fraction(dark.count(100), len(dark))
    share = Fraction(str(prevalence))
    assert gate.metrics["ppv"].value == pytest.approx(
        float(found * share / (found * share + (1 - spared) * (1 - share)))
    )
    assert gate.metrics["npv"].value == pytest.approx(
        float(spared * (1 - share) / (spared * (1 - share) + (1 - found) * share))
    )


def test_there_are_none_without_a_prevalence(tmp_path):
    _project(tmp_path)
    assert "ppv" not in _run(tmp_path).gates[0].metrics


# --- goals -----------------------------------------------------------------------------------------------------------


def test_missed_findings_and_false_alarms_have_a_bound_each(tmp_path):
    _project(tmp_path)
    (tmp_path / "policy.yaml").write_text("""
robustcheck: 1
model:
  path: brightness.safetensors
  architecture: brightness:Brightness
  task: multiclass
  labels: [dark, bright]
  positive: bright
data: {source: patients.csv, bits: 8}
gates:
  - {id: missed, goal: missed_finding, attack: fgsm, epsilon: 8/255, require: {sensitivity: 0.6}}
  - {id: alarm, goal: false_alarm, attack: fgsm, epsilon: 8/255, require: {specificity: 0.7}}
""")
    missed, alarm = run(load_policy(tmp_path / "policy.yaml")).gates
    assert (missed.verdict, alarm.verdict) == ("pass", "fail")
    assert missed.metrics["sensitivity"].value == pytest.approx(5 / 8)
    assert missed.metrics["specificity"].value == 1
    assert alarm.metrics["specificity"].value == pytest.approx(5 / 8)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "require", "message"),
    [
        ("", "worst_subgroup.accuracy: 0.5", "needs data.subgroups"),
        (
            ", subgroups: sex",
            "worst_subgrup.accuracy: 0.5",
            "did you mean worst_subgroup|did you mean 'worst_subgroup'",
        ),
        (", subgroups: sex", "worst_subgroup.acuracy: 0.5", "worst_subgroup goes with accuracy"),
        ("", "worst_finding.sensitivity: 0.5", "is for task: multilabel"),
        ("", "ppv: 0.5", "needs data.prevalence"),
        (", subgroups: sex", "worst_subgroup.npv: 0.5", "needs data.prevalence"),
    ],
)
def test_mistakes(data, require, message, tmp_path):
    _project(tmp_path)
    with pytest.raises(PolicyError, match=message):
        _run(tmp_path, data, require=require)
