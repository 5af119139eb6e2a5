"""What a gate leaves to others: within which budgets it counts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from robustcheck.evaluation.search.ledger import Ledger
from robustcheck.evaluation.search.loop import Hit
from robustcheck.evaluation.search.recording import Recorder


def test_the_widest_search_says_up_to_where_a_sample_is_settled():
    ledger = Ledger()
    for levels, followable in ((4, True), (8, False), (2, True)):
        ledger.settle("pgd", levels, {7: followable})
    assert ledger.settled("pgd", 8) == {7: False}
    assert ledger.settled("pgd", 2) == {7: False}
    assert ledger.settled("pgd", 9) == {}
    assert ledger.settled("apgd", 2) == {}


def test_a_second_search_within_as_much_is_the_one_that_counts():
    ledger = Ledger()
    ledger.settle("pgd", 4, {7: False})
    ledger.settle("pgd", 4, {7: True})
    assert ledger.settled("pgd", 4) == {7: True}


def test_scores_count_within_the_budget_that_they_were_searched_in_and_every_larger_one():
    ledger = Ledger()
    small, large = ({1: 0.4}, {1: 0.7})
    ledger.add_scores("linf", 2, small, {})
    ledger.add_scores("linf", 4, large, {})
    assert ledger.scores_within("linf", 1) == []
    assert ledger.scores_within("linf", 2) == [small]
    assert ledger.scores_within("linf", 3) == [small]
    assert ledger.scores_within("linf", 4) == [small, large]
    assert len(ledger.finding_probabilities_within("linf", 2)) == 1
    assert ledger.scores_within("l2", 4) == []


# --- from hits to the ledger -----------------------------------------------------------------------------------------


@pytest.fixture
def setting():
    """As much of a setting as records counterexamples; `written` are those that got a file."""
    written = []

    def counterexample(gate, sample, stored):
        written.append((gate, sample, int(stored.max())))
        return f"{gate}-{sample}.png", ""

    images = SimpleNamespace(counterexample=counterexample)
    return SimpleNamespace(memory=SimpleNamespace(ledger=Ledger()), images=images, written=written)


def _recording(setting):
    return Recorder(gate=SimpleNamespace(id="gate"), setting=setting, family="linf", warm_starts_of=())


def _hit(distance, *, sample=7, restart=0):
    stored = np.full((1, 2, 2), distance, np.uint8)
    return Hit(
        sample=sample, stored=stored, decision=1, distance=distance, score=None, attack="fmn", restart=restart, step=0
    )


def test_of_several_restarts_the_nearest_counterexample_is_recorded_and_the_first_of_two_as_near(setting):
    with _recording(setting) as recorder:
        for restart, distance in enumerate((5, 3, 3, 4)):
            recorder.keep(_hit(distance, restart=restart))
        recorder.keep(_hit(9, sample=8))
        recorder.record([7, 6])
        assert set(setting.memory.ledger.nearest("linf")) == {7}, "the other one's search goes on"
    entries = setting.memory.ledger.nearest("linf")
    assert {sample: (one.distance, one.restart, one.found_by) for sample, one in entries.items()} == {
        7: (3, 1, "gate"),
        8: (9, 0, "gate"),
    }
    assert setting.written == [("gate", 7, 3), ("gate", 8, 9)]


def test_what_lies_no_nearer_than_what_is_known_gets_no_file(setting):
    for distance in (4, 4, 6, 2):
        with _recording(setting) as recorder:
            recorder.keep(_hit(distance))
    assert setting.written == [("gate", 7, 4), ("gate", 7, 2)]


def test_what_was_found_before_an_interruption_is_recorded(setting):
    def interrupted():
        with _recording(setting) as recorder:
            recorder.keep(_hit(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert setting.memory.ledger.nearest("linf")[7].distance == 3
    assert setting.written == [("gate", 7, 3)]
