"""Images that repeat others are no independent samples, and it is said where there are many."""

from __future__ import annotations

import pytest
from building import brightness_manifest, brightness_policy, brightness_project

from robustcheck import load_policy, run

GATES = """
  - {id: clean, require: {accuracy: 0.5}}
  - {id: pgd, attack: {name: pgd, steps: 2}, epsilon: 1/255, require: {accuracy: 0.5}}
"""


def _told(folder, *, data="source: flat.npz", extra=""):
    """What is said of repeats in each gate, and the gates."""
    (folder / "policy.yaml").write_text(brightness_policy(GATES, data=data, extra=extra))
    gates = run(load_policy(folder / "policy.yaml")).gates
    assert {gate.verdict for gate in gates} == {"pass"}
    codes = [[(one.severity, one.message) for one in gate.findings if one.code == "repeated-images"] for gate in gates]
    return codes, gates


def _sentence(repeats, samples):
    return [
        (
            "warning",
            f"{repeats} of {samples} samples repeat another's image: intervals treat them as independent, and are too "
            "narrow; leave them out, or give data.group a column that groups them",
        )
    ]


@pytest.mark.parametrize(("distinct", "told"), [(40, []), (38, []), (37, _sentence(3, 40)), (2, _sentence(38, 40))])
def test_more_than_one_in_twenty_is_told_in_every_gate(distinct, told, tmp_path):
    levels = [*range(100, 100 + distinct), *[101] * (40 - distinct)]
    brightness_project(tmp_path, levels=levels)
    assert _told(tmp_path)[0] == [told, told]


def test_repeats_in_one_group_count_together_already(tmp_path):
    brightness_project(tmp_path)
    rows = [(level, f"p{level}", "f") for level in range(100, 110)] + [(140, "q", "m"), (140, "r", "m")]
    brightness_manifest(tmp_path, rows, images=2)
    assert _told(tmp_path, data="source: patients.csv")[0] == [_sentence(13, 24)] * 2
    assert _told(tmp_path, data="source: patients.csv, group: patient")[0] == [_sentence(2, 24)] * 2
    brightness_manifest(tmp_path, rows[:-1], images=2)
    assert _told(tmp_path, data="source: patients.csv, group: patient")[0] == [[], []]


def test_a_gate_that_stops_early_counts_those_that_it_is_about(tmp_path):
    brightness_project(tmp_path, levels=[60, 160] * 40)
    (clean, pgd), (_, attacked) = _told(tmp_path, extra="decision: {stop: early}")
    assert attacked.stopped.needed < 80
    assert (clean, pgd) == (_sentence(78, 80), _sentence(attacked.stopped.needed - 2, attacked.stopped.needed))
