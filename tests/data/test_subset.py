from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from robustcheck.data.subset import allocation, as_groups, in_random_order, spread, stratified

label_counts = st.lists(st.integers(1, 60), min_size=1, max_size=8)


@st.composite
def requests(draw):
    counts = draw(label_counts)
    return counts, draw(st.integers(1, sum(counts)))


@given(requests())
def test_shares_add_up_and_are_proportional(request_):
    counts, samples = request_
    result = allocation(counts, samples)
    assert sum(result) == samples
    assert all(0 <= share <= count for share, count in zip(result, counts, strict=True))
    if samples >= len(counts):
        assert min(result) >= 1
    exact = [samples * count / sum(counts) for count in counts]
    raised = sum(share > value + 1 - 1e-9 for share, value in zip(result, exact, strict=True))
    assert raised == 0
    if all(value >= 1 for value in exact):  # no label had to be rescued: largest remainder's own bound
        assert all(abs(share - value) < 1 for share, value in zip(result, exact, strict=True))


def test_shares_by_hand():
    assert allocation([234, 390], 500) == [188, 312]  # 187.5 and 312.5: the tie goes to the first
    assert allocation([1000, 1, 1], 10) == [8, 1, 1]
    assert allocation([5, 5, 5], 2) == [1, 1, 0]
    assert allocation([3], 3) == [3]


@st.composite
def labelled(draw):
    labels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=80))
    return np.array(labels), draw(st.integers(1, len(labels))), draw(st.integers(0, 2**64))


@given(labelled())
def test_the_subset_is_in_source_order_without_repeats(case):
    labels, samples, seed = case
    names = [f"x/{index}" for index in range(len(labels))]
    chosen = stratified(names, labels, samples=samples, seed=seed).tolist()
    assert len(chosen) == samples
    assert chosen == sorted(set(chosen))
    assert chosen == stratified(names, labels, samples=samples, seed=seed).tolist()


@given(labelled(), st.randoms(use_true_random=False))
def test_which_samples_are_kept_does_not_depend_on_their_order(case, random):
    labels, samples, seed = case
    names = [f"x/{index}" for index in range(len(labels))]
    order = list(range(len(labels)))
    random.shuffle(order)
    straight = {names[index] for index in stratified(names, labels, samples=samples, seed=seed)}
    mixed_names = [names[index] for index in order]
    mixed = {mixed_names[index] for index in stratified(mixed_names, labels[order], samples=samples, seed=seed)}
    assert mixed == straight


@given(labelled(), st.randoms(use_true_random=False))
def test_a_spread_subset_has_each_readings_share_and_does_not_depend_on_order(case, random):
    readings, samples, seed = case
    names = [f"x/{index}" for index in range(len(readings))]
    chosen = spread(names, readings, samples=samples, seed=seed).tolist()
    assert len(chosen) == samples
    assert chosen == sorted(set(chosen))
    for reading in set(readings.tolist()):
        exact = samples * (readings == reading).sum() / len(readings)
        assert abs((readings[chosen] == reading).sum() - exact) < 1
    order = list(range(len(readings)))
    random.shuffle(order)
    mixed_names = [names[index] for index in order]
    mixed = spread(mixed_names, readings[order], samples=samples, seed=seed).tolist()
    assert {mixed_names[index] for index in mixed} == {names[index] for index in chosen}


def test_the_seed_chooses():
    names, labels = [f"x/{index}" for index in range(100)], np.arange(100) % 2
    subsets = {tuple(stratified(names, labels, samples=10, seed=seed).tolist()) for seed in range(20)}
    assert len(subsets) == 20
    subsets = {tuple(spread(names, labels, samples=10, seed=seed).tolist()) for seed in range(20)}
    assert len(subsets) == 20


def test_the_same_samples_are_chosen_by_every_version():
    """Else verdicts on a subset would change, and no report could say why."""
    names, labels = [f"x/{index}" for index in range(30)], np.arange(30) % 3
    assert stratified(names, labels, samples=8, seed=7).tolist() == [0, 1, 3, 5, 16, 17, 19, 24]
    assert spread(names, labels, samples=8, seed=7).tolist() == [5, 8, 11, 12, 13, 15, 22, 24]
    assert in_random_order(names[:8], seed=7).tolist() == [1, 4, 3, 6, 0, 2, 7, 5]


def test_a_group_has_the_reading_that_most_of_it_has():
    names = ["d", "a", "c", "b", "e"]
    firsts, readings = as_groups(names, np.array([1, 0, 1, 5, 0]), np.array([0, 1, 0, 1, 0]))
    assert firsts == ["c", "a"]
    assert readings.tolist() == [1, 0]
