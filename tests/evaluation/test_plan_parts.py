"""Plans of requirements on parts of the samples, of samples in groups, and of gates that may stop early."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from building import brightness_manifest, brightness_policy, brightness_project
from PIL import Image
from safetensors.torch import save_file

from robustcheck import load_policy, run
from robustcheck.evaluation.planning.planning import plan
from robustcheck.policy.bounds import OF_FINDINGS, OF_SUBGROUPS
from robustcheck.report.plan import plan_tables
from robustcheck.report.summary import render, summary_table

ROWS = [(160 if number % 2 else 100, f"p{number}", "F" if number < 40 else "M") for number in range(60)]


def _patients(folder, images=1):
    brightness_project(folder)
    brightness_manifest(folder, ROWS, images=images)


def _one(folder, require, *, data="", decision="{rule: confident}"):
    gate = f"  - {{id: gate, attack: fgsm, epsilon: 8/255, require: {{{require}}}}}"
    policy = brightness_policy(gate, data=f"source: patients.csv, bits: 8{data}", extra=f"decision: {decision}")
    (folder / "policy.yaml").write_text(policy)
    (gate,) = plan(load_policy(folder / "policy.yaml")).gates
    assert gate.error is None
    (requirement,) = gate.requirements
    return requirement


def test_the_worst_subgroup_is_planned_for_the_smallest_with_all_intervals_together(tmp_path):
    _patients(tmp_path)
    whole = _one(tmp_path, "accuracy: 0.6")
    worst = _one(tmp_path, "worst_subgroup.accuracy: 0.6", data=", subgroups: sex")
    assert (whole.samples, worst.samples) == (60, 20)
    assert worst.needed > whole.needed  # each interval is surer
    assert worst.clean == 1
    assert "of sex=M, the smallest of 2" in worst.notes
    assert (worst.slice, worst.among, whole.slice, whole.among) == ("sex=M", 2, None, 1)
    few = _one(tmp_path, "worst_subgroup.sensitivity: 0.6", data=", subgroups: sex")
    assert few.samples == 10


def test_images_of_a_patient_are_worth_one_at_least(tmp_path):
    _patients(tmp_path, images=4)
    alone, grouped = _one(tmp_path, "accuracy: 0.6"), _one(tmp_path, "accuracy: 0.6", data=", group: patient")
    assert (alone.samples, grouped.samples) == (240, 240)
    assert alone.needed == grouped.needed
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    assert grouped.power < alone.power
    assert (alone.groups, alone.worth) == (None, 240)
    assert (grouped.groups, grouped.worth) == (60, 60)
    assert grouped.notes == ()  # the table's head says it once
    plain = _one(tmp_path, "accuracy: 0.6", data=", group: patient, samples: 20")
    assert plain.samples == 20


def test_predictive_values_are_planned_as_if_both_rates_were_equal(tmp_path):
    _patients(tmp_path)
    ppv = _one(tmp_path, "ppv: 0.4", data=", prevalence: 0.1")
    assert ppv.about
    assert ppv.needed > 60
    assert ppv.low < 0.45 < ppv.high
    assert ppv.clean == 1


def test_gates_that_may_stop_are_planned_with_their_own_interval(tmp_path):
    _patients(tmp_path)
    fixed, early = (
        _one(tmp_path, "accuracy: 0.6"),
        _one(tmp_path, "accuracy: 0.6", decision="{rule: confident, stop: early}"),
    )
    assert early.needed > fixed.needed  # an interval that holds at every number of samples is wider
    assert early.high - early.low > fixed.high - fixed.low


# --- parts -----------------------------------------------------------------------------------------------------------


def _manifest(folder, rows):
    """Images of levels, with a site and a patient."""
    brightness_project(folder)
    lines = ["path,label,site,patient"]
    for number, (level, site, patient) in enumerate(rows):
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{'bright' if level > 127 else 'dark'},{site},{patient}")
    (folder / "patients.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("plain", OF_SUBGROUPS)
def test_a_subgroup_of_all_samples_needs_what_they_need(plain, tmp_path):
    _manifest(tmp_path, [(160 if number % 3 else 100, "A", number) for number in range(60)])
    bound = "'<= 0.3'" if plain == "attack_success" else "0.7"
    data = ", subgroups: site, prevalence: 0.3"
    whole, part = (_one(tmp_path, f"{of}{plain}: {bound}", data=data) for of in ("", "worst_subgroup."))
    assert part.needed == whole.needed
    assert (part.low, part.high, part.power, part.samples) == (whole.low, whole.high, whole.power, whole.samples)
    assert part.about == whole.about == (plain in ("balanced_accuracy", "ppv", "npv", "auroc"))
    assert part.clean == whole.clean


def test_subgroups_without_the_metric_are_left_out_as_in_a_run(tmp_path):
    rows = [(160 if number % 2 else 100, "AB"[number % 4 // 2], number) for number in range(40)]
    _manifest(tmp_path, [*rows, (100, "C", 40), (100, "C", 41)])
    sensitivity = _one(tmp_path, "worst_subgroup.sensitivity: 0.6", data=", subgroups: site")
    assert (sensitivity.samples, sensitivity.among, sensitivity.slice) == (10, 2, "site=A")
    assert "without 1 in which it is undefined" in sensitivity.notes
    assert sensitivity.low is not None
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert result.metrics["worst_subgroup.sensitivity"].value is not None
    accuracy = _one(tmp_path, "worst_subgroup.accuracy: 0.6", data=", subgroups: site")
    assert (accuracy.samples, accuracy.among, accuracy.slice) == (2, 3, "site=C")
    assert sensitivity.needed < accuracy.needed  # two intervals hold together, not three
    nothing = _one(tmp_path, "worst_subgroup.sensitivity: 0.6", data=", subgroups: site, samples: 1")
    assert "undefined on these samples" in nothing.notes
    assert not nothing.enough


@pytest.mark.parametrize("plain", ["auroc", "balanced_accuracy"])
def test_of_what_is_no_rate_the_least_certain_part_is_planned_and_not_the_smallest(plain, tmp_path):
    balanced = [(160 if number % 2 else 100, "A", number) for number in range(30)]
    _manifest(tmp_path, [*balanced, *((160 if number < 2 else 100, "B", 30 + number) for number in range(60))])
    one = _one(tmp_path, f"worst_subgroup.{plain}: 0.6", data=", subgroups: site")
    assert (one.slice, one.samples) == ("site=B", 60)
    assert "of site=B, the least certain of 2" in one.notes


@pytest.mark.parametrize("plain", ["accuracy", "auroc", "ppv", "balanced_accuracy"])
def test_a_part_that_is_worth_one_sample_is_not_undefined(plain, tmp_path):
    rows = [(160 if number % 2 else 100, "A", f"p{number}") for number in range(30)]
    _manifest(tmp_path, [*rows, *((160 if number % 2 else 100, "B", "alone") for number in range(12))])
    data = ", subgroups: site, group: patient, prevalence: 0.3"
    one = _one(tmp_path, f"worst_subgroup.{plain}: 0.4", data=data)
    assert (one.slice, one.samples, one.groups, one.worth) == ("site=B", 12, 1, 1)
    assert "all of one group, so worth one sample" in one.notes
    assert "undefined on these samples" not in one.notes
    assert one.high - one.low > 0.95
    assert not one.enough


def test_tables_break_between_words_and_say_once_that_there_are_groups(tmp_path):
    _patients(tmp_path, images=2)
    metrics = [f"worst_subgroup.{plain}: 0.2" for plain in ("accuracy", "sensitivity", "balanced_accuracy", "auroc")]
    _one(tmp_path, metrics[0], data=", group: patient, subgroups: sex")
    text = (tmp_path / "policy.yaml").read_text().replace(metrics[0], ", ".join(metrics))
    (tmp_path / "policy.yaml").write_text(text)
    policy = load_policy(tmp_path / "policy.yaml")
    planned = render(plan_tables(plan(policy)), width=80, color=False)
    ran = render(summary_table(run(policy)), width=80, color=False)
    for shown in (planned, ran):
        assert max(map(len, shown.splitlines())) <= 80
        words = {word for line in shown.splitlines() for word in line.split()}
        assert {"accuracy", "sensitivity", ">=0.2"} <= words
    assert "worst_subgroup." in planned
    assert "balanced_accuracy" in planned
    assert "worst_" in ran
    assert "subgroup." in ran
    assert planned.count("always agree") == 1
    assert "120 samples are of 60 groups" in planned


# --- findings --------------------------------------------------------------------------------------------------------

BANDS = """
import torch

class Bands(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.middle = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, image):
        return (image.flatten(1).unflatten(1, (2, -1)).mean(dim=2) - self.middle) * 40
"""


def _findings(folder, gate):
    """Two findings, each the brightness of half of an image."""
    (folder / "bands.py").write_text(BANDS)
    save_file({"middle": torch.tensor(0.5)}, folder / "bands.safetensors")
    levels = np.random.default_rng(0).integers(100, 156, (24, 2)).astype(np.uint8)
    images = np.repeat(levels, 3, axis=1)[:, :, None].repeat(6, axis=2)
    np.savez(folder / "bands.npz", test_images=images, test_labels=(levels > 127).astype(np.uint8))
    (folder / "policy.yaml").write_text(f"""
robustcheck: 1
model:
  path: bands.safetensors
  architecture: bands:Bands
  task: multilabel
  labels: [nodule, mass]
  operating_point: 0.5
data: {{source: bands.npz, prevalence: [0.2, 0.3]}}
decision: {{rule: confident}}
gates: [{{id: gate, {gate}}}]
""")
    return load_policy(folder / "policy.yaml")


@pytest.mark.parametrize("plain", OF_FINDINGS)
@pytest.mark.parametrize("attack", ["", "attack: fgsm, epsilon: 2/255, "])
def test_every_metric_of_findings_is_planned(plain, attack, tmp_path):
    (gate,) = plan(_findings(tmp_path, f"{attack}require: {{nodule.{plain}: 0.3, worst_finding.{plain}: 0.3}}")).gates
    assert gate.error is None
    single, worst = gate.requirements
    assert (single.slice, single.among, worst.among) == ("nodule", 1, 2)
    assert worst.needed > single.needed or worst.slice != "nodule"
    for one in gate.requirements:
        assert one.low < one.supposed < one.high
        assert one.clean == 1


def test_areas_of_findings_are_undefined_where_a_run_has_none(tmp_path):
    """A candidate that draws is looked at many times, and has no single score."""
    policy = _findings(tmp_path, "attack: {name: pgd, steps: 2}, epsilon: 2/255, require: {nodule.auroc: 0.3}")
    drawn = BANDS.replace("* 40", "* 40 + 0.1 * torch.randn(len(image), 2)")
    assert drawn != BANDS
    (tmp_path / "bands.py").write_text(drawn)
    (one,) = plan(policy).gates[0].requirements
    assert (one.needed, one.low, one.clean) == (None, None, None)
    assert one.notes == ("undefined on these samples",)
    assert run(policy).gates[0].metrics["nodule.auroc"].value is None
