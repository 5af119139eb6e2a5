"""What a gate leaves to others: within which budgets it counts."""

from __future__ import annotations

from robustcheck.evaluation.search.ledger import Ledger


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
    assert len(ledger.chances_within("linf", 2)) == 1
    assert ledger.scores_within("l2", 4) == []
