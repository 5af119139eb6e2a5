"""A candidate that is fed wrongly reads all samples alike, and holds whatever is done to them."""

from __future__ import annotations

import pytest
from building import brightness_gates, brightness_project, flat_images

DARK, BRIGHT = range(20, 100, 8), range(160, 240, 8)
GATES = """\
  - {id: clean, require: {sensitivity: 0.9}}
  - {id: missed, attack: pgd, goal: missed_finding, epsilon: 2/255, require: {sensitivity: 0.9}}
  - {id: asked, attack: square, epsilon: 2/255, queries: 20, goal: missed_finding, require: {sensitivity: 0.9}}
  - {id: failed, attack: pgd, epsilon: 2/255, require: {accuracy: 0.9}}
"""
SKILL = "no-better-than-chance"


def project(folder, *, threshold, levels=(*DARK, *BRIGHT), labels=None):
    brightness_project(folder, threshold=threshold)
    flat_images(folder, levels, [int(level > 127) for level in levels] if labels is None else labels)


def codes(gate):
    return [finding.code for finding in gate.findings]


def test_what_reads_all_samples_alike_passes_no_attacked_gate(tmp_path):
    """Whoever says `bright` of everything misses no bright image, under attack neither."""
    project(tmp_path, threshold=-9.0)
    clean, missed, asked, failed = brightness_gates(tmp_path, GATES)
    assert clean.verdict == "pass"  # the policy asked for no more, and is told
    for gate in (missed, asked):
        assert gate.metrics["sensitivity"].value == 1
        assert (gate.verdict, gate.error) == (
            "error",
            "the candidate reads all 20 samples alike before any attack, though 10 of them are labelled otherwise: "
            "that it still does so under attack shows nothing; check model.operating_point, model.preprocess (range, "
            "mean, std, layout, order, window), the order of model.labels, and which weights and scores are the "
            "model's",
        )
    assert failed.verdict == "fail"
    for gate in (clean, missed, asked, failed):
        (finding,) = [finding for finding in gate.findings if finding.code == SKILL]
        assert finding.message.startswith(
            "before any attack the candidate reads 10 of 20 samples correctly, which is no better than chance "
            "(Youden's index 0.00): check model.operating_point"
        )


def test_it_is_not_said_to_read_samples_so_under_attack_that_were_turned(tmp_path):
    """All are read as bright; two that are lie so near the threshold that two levels turn them."""
    levels = [*range(40, 120, 8), 27, 27, *list(BRIGHT)[:8]]
    project(tmp_path, threshold=26 / 255, levels=levels, labels=[0] * 10 + [1] * 10)
    gate = "  - {id: missed, attack: pgd, goal: missed_finding, epsilon: 2/255, require: {sensitivity: 0.7}}\n"
    (missed,) = brightness_gates(tmp_path, gate)
    assert (missed.verdict, missed.metrics["sensitivity"].value) == ("error", 0.8)
    assert (
        "alike before any attack, though 10 of them are labelled otherwise: that it goes on to read all but the "
        "2 turned ones so under attack shows nothing; check model.operating_point"
    ) in missed.error


def test_health_warn_only_tells(tmp_path):
    project(tmp_path, threshold=-9.0)
    _, missed, _, _ = brightness_gates(tmp_path, GATES, extra="health: warn")
    assert (missed.verdict, SKILL in codes(missed)) == ("pass", True)


def test_it_is_told_of_a_gate_that_few_samples_decided(tmp_path):
    project(tmp_path, threshold=-9.0)
    (gate,) = brightness_gates(tmp_path, GATES.splitlines()[-1], extra="decision: {stop: early}")
    assert gate.stopped.needed < 20
    assert SKILL in codes(gate)


def test_labels_in_the_wrong_order_are_worse_than_chance(tmp_path):
    project(tmp_path, threshold=0.5, labels=[1] * 10 + [0] * 10)
    (gate,) = brightness_gates(tmp_path, "  - {id: clean, require: {accuracy: 0.9}}\n")
    (finding,) = [finding for finding in gate.findings if finding.code == SKILL]
    assert "reads 0 of 20 samples correctly, which is worse than chance (Youden's index -1.00)" in finding.message


def test_a_little_worse_than_chance_is_no_better(tmp_path):
    project(tmp_path, threshold=0.5, levels=[60] * 5 + [200] * 14 + [60] * 11, labels=[0] * 10 + [1] * 20)
    (gate,) = brightness_gates(tmp_path, "  - {id: clean, require: {accuracy: 0}}\n")
    (finding,) = [finding for finding in gate.findings if finding.code == SKILL]
    assert "reads 14 of 30 samples correctly, which is no better than chance (Youden's index -0.05)" in finding.message


@pytest.mark.parametrize(
    ("levels", "threshold"),
    [
        pytest.param((*DARK, *BRIGHT), 0.5, id="it-tells-them-apart"),
        pytest.param((*DARK, *BRIGHT), 0.14, id="it-tells-some-apart"),
        pytest.param((*DARK[1:], *BRIGHT), -9.0, id="too-few-to-say"),
        pytest.param((*BRIGHT, *BRIGHT), -9.0, id="all-of-one-label"),
    ],
)
def test_others_are_not_told(levels, threshold, tmp_path):
    project(tmp_path, threshold=threshold, levels=levels)
    gates = brightness_gates(tmp_path, GATES)
    assert not any(SKILL in codes(gate) for gate in gates)
    assert [gate.verdict for gate in gates[:3]] == ["pass"] * 3


def test_a_few_positives_that_are_missed_are_no_sign_of_it(tmp_path):
    """A conservative candidate says `dark` of everything; nine of thirty-seven are bright, which it misses."""
    gate = "  - {id: alarm, attack: pgd, goal: false_alarm, epsilon: 2/255, require: {specificity: 0.9}}\n"
    levels = [*DARK, *DARK, *list(DARK)[:8], *list(BRIGHT)[:9]]
    project(tmp_path, threshold=9.0, levels=levels)
    (held,) = brightness_gates(tmp_path, gate)
    assert (held.verdict, SKILL in codes(held)) == ("pass", True)
    project(tmp_path, threshold=9.0, levels=[*levels, 240])
    (refused,) = brightness_gates(tmp_path, gate)
    assert refused.verdict == "error"
    assert "all 38 samples alike before any attack, though 10 of them are labelled otherwise" in refused.error
    project(tmp_path, threshold=9.0, levels=[*DARK, *list(DARK)[:5], *list(BRIGHT)[:5]])
    (quarter,) = brightness_gates(tmp_path, gate)
    assert "all 20 samples alike before any attack, though 5" in quarter.error
