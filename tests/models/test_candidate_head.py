"""Raw scores of any kind become logits, and logits become decisions."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import tiny_models as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from robustcheck.attacks.objectives import log_odds, margin
from robustcheck.errors import CandidateError
from robustcheck.models.head import NO_ANSWER, Head
from robustcheck.models.score_kind import read_head

THREE = ("normal", "benign", "malignant")
TWO = ("healthy", "ill")


def _spec(**options):
    return tiny.spec("net.ts", **options)


def _head(labels=TWO, **options):
    given_ = {"binary": False, "outputs_probabilities": False, "positive": None, "operating_point": None, "found": ""}
    return Head(labels=labels, **{**given_, **options})


RAW = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.0, 4.0], [0.2, 0.3, 0.1]])


# --- what the scores are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [TWO, THREE])
@pytest.mark.parametrize("output", ["auto", "logits"])
def test_logits_are_told(labels, output):
    head = read_head(_spec(labels=labels, output=output), RAW[:, : len(labels)])
    assert not head.outputs_probabilities
    assert head.found == f"logits ({'inferred from 3 samples' if output == 'auto' else 'as the policy says'})"


def test_one_sample_is_told_as_one():
    assert read_head(_spec(labels=THREE), RAW[:1]).found == "logits (inferred from 1 sample)"


@pytest.mark.parametrize("labels", [TWO, THREE])
@pytest.mark.parametrize("output", ["auto", "probabilities"])
def test_probabilities_are_told(labels, output):
    head = read_head(_spec(labels=labels, output=output), RAW[:, : len(labels)].softmax(dim=1))
    assert head.outputs_probabilities
    assert head.found == f"probabilities ({'inferred from 3 samples' if output == 'auto' else 'as the policy says'})"


@pytest.mark.parametrize("output", ["auto", "logits"])
@pytest.mark.parametrize("other", [-2.0, 1.5])
def test_one_logit_is_told(output, other):
    head = read_head(_spec(task="binary", output=output), torch.tensor([[0.3], [other]]))
    assert head.binary
    assert not head.outputs_probabilities


@pytest.mark.parametrize("output", ["auto", "probabilities"])
def test_one_probability_is_told(output):
    assert read_head(_spec(task="binary", output=output), torch.tensor([[0.0], [0.7], [1.0]])).outputs_probabilities


@pytest.mark.parametrize("far", [None, [[torch.nan], [torch.nan]], [[0.1], [0.7]], [[0.3], [0.3]]])
def test_one_score_that_nothing_tells_is_asked_about(far):
    """As of a network that looks at each image by its own range, or takes no such inputs."""
    raw, beyond = torch.tensor([[0.1], [0.7]]), lambda: None if far is None else torch.tensor(far)
    with pytest.raises(CandidateError, match=r"all 2 samples lie between 0 and 1, and .*; set model\.output: probab"):
        read_head(_spec(task="binary"), raw, beyond)
    assert read_head(_spec(task="binary", output="probabilities"), raw, beyond).outputs_probabilities
    assert not read_head(_spec(task="binary", output="logits"), raw, beyond).outputs_probabilities
    sure = torch.tensor([[0.1], [0.002], [0.999]])
    assert read_head(_spec(task="binary"), sure, beyond).outputs_probabilities


@pytest.mark.parametrize("raw", [[[0.002], [0.7]], [[0.1], [0.999]]])
def test_scores_at_one_end_are_not_those_of_a_sure_sigmoid(raw):
    with pytest.raises(CandidateError, match=r"it is unclear what they are; set model\.output"):
        read_head(_spec(task="binary"), torch.tensor(raw))


def test_scores_at_both_ends_are_logits_if_the_policy_says_so():
    sure = torch.tensor([[0.1], [0.002], [0.999]])
    assert not read_head(_spec(task="binary", output="logits"), sure).outputs_probabilities


def test_one_logit_that_may_be_a_probability_is_what_the_policy_says():
    assert not read_head(_spec(task="binary", output="logits"), torch.tensor([[0.1], [0.7]])).outputs_probabilities


def test_scores_between_0_and_1_that_do_not_sum_to_1_are_logits():
    assert not read_head(_spec(labels=THREE), torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]])).outputs_probabilities


def test_one_sample_that_is_no_distribution_shows_that_none_is():
    raw = torch.cat([RAW.softmax(dim=1), torch.tensor([[0.5, 0.5, 0.1]])])
    assert not read_head(_spec(labels=THREE), raw).outputs_probabilities


ROUNDED = (torch.cat([RAW, torch.tensor([[9.0, 0, 0]])]).softmax(dim=1) * 256).round().clamp_max(
    255
) / 256  # as a quantised softmax gives them
ENDS = torch.eye(3) * 255 / 256


@pytest.mark.parametrize("output", ["auto", "probabilities"])
def test_rounded_probabilities_are_told(output):
    assert (ROUNDED.sum(dim=1) - 1).abs().max() > 0.003
    head = read_head(_spec(labels=THREE, output=output, positive="benign", operating_point=0.3), ROUNDED, lambda: ENDS)
    assert head.outputs_probabilities
    assert "divided" not in head.found
    assert head.decide(head.logits(torch.tensor([[0.75, 0.25, 0.0], [0.5, 0.375, 0.125]]))).tolist() == [0, 1]
    with pytest.raises(CandidateError, match=r"output says logits, but .* sum to 1, as probabilities do"):
        read_head(_spec(labels=THREE, output="logits"), ROUNDED, lambda: ENDS)


@pytest.mark.parametrize(("labels", "steps", "told"), [(10, 127, True), (100, 255, True), (10, 28, False)])
def test_how_much_the_sum_of_rounded_probabilities_may_miss(labels, steps, told):
    """By 3 hundredths of ten labels, and 19 of a hundred; by 7 of ten they are something else."""
    raw = (torch.full((2, labels), 1 / labels) * steps).round() / steps
    raw[0, 0] += 0.001  # as two samples differ
    head = read_head(_spec(labels=tuple(map(str, range(labels)))), raw, lambda: torch.eye(labels))
    assert head.outputs_probabilities is told


def test_sums_of_weights_in_float32_may_leave_0_to_1():
    for options, raw in (
        ({"labels": THREE}, torch.eye(3) * (1 + 2e-6)),
        ({"task": "binary"}, torch.eye(2)[:, :1] - 2e-6),
    ):
        assert read_head(_spec(**options), raw).outputs_probabilities


def test_black_images_tell_by_what_white_ones_would_give(tmp_path):
    """A thousand times as bright as black is black."""
    tiny.save_linear_onnx(tmp_path / "net.onnx", np.full((tiny.HEIGHT * tiny.WIDTH, 1), 0.1, np.float32))
    black = tiny.Pictures([np.zeros((1, tiny.HEIGHT, tiny.WIDTH), np.uint8)] * 3)
    candidate, _ = tiny.load(tmp_path / "net.onnx", black, task="binary")
    assert not candidate.head.outputs_probabilities


@pytest.mark.parametrize("far", [1000 * ROUNDED, ENDS * 0.5, torch.full((2, 3), torch.nan), None])
def test_scores_that_sum_to_about_1_are_logits_unless_they_do_so_beyond_images(far):
    assert not read_head(_spec(labels=THREE), ROUNDED, lambda: far).outputs_probabilities
    assert not read_head(_spec(labels=THREE, output="logits"), ROUNDED, lambda: far).outputs_probabilities


def test_an_operating_point_on_what_nothing_tells():
    """Scores of independent sigmoids: a threshold on them is none on what a softmax makes of them."""
    raw, far = torch.tensor([[0.2, 0.3, 0.1], [0.9, 0.1, 0.9]]), torch.tensor([[1.0, 1, 0], [0, 0, 1]])
    options = {"labels": THREE, "positive": "benign", "operating_point": 0.4}
    with pytest.raises(CandidateError, match=r"do not sum to 1, so it is unclear what model\.operating_point is"):
        read_head(_spec(**options), raw, lambda: far)
    assert not read_head(_spec(**options), raw, lambda: 1000 * raw).outputs_probabilities
    assert not read_head(_spec(**options, output="logits"), raw, lambda: far).outputs_probabilities
    head = read_head(_spec(**options, output="probabilities"), raw, lambda: far)
    assert head.found == "probabilities (as the policy says; they do not sum to 1, and are divided by their sum)"
    assert head.decide(head.logits(raw)).tolist() == [1, 0]  # .3 of .6, and .1 of 1.9
    told = read_head(_spec(**options, output="probabilities"), raw, lambda: 1000 * raw)
    assert "on far brighter inputs they leave 0 to 1" in told.found
    with pytest.raises(CandidateError, match=r"range from 0\.3 to 2\.7; set logits, or auto"):
        read_head(_spec(**options, output="probabilities"), 3 * raw, lambda: far)


WEIGHTS = torch.tensor([3.0, 1.0, 0.2])


@pytest.mark.parametrize("far", [torch.eye(3) * WEIGHTS, torch.full((2, 3), torch.nan), None])
@pytest.mark.parametrize("share", [1.0, 0.3])  # beyond 1, and between 0 and 1
def test_an_operating_point_on_probabilities_with_weights(far, share):
    raw = share * WEIGHTS * RAW.softmax(dim=1)
    options = {"labels": THREE, "positive": "benign", "operating_point": 0.4}
    with pytest.raises(CandidateError, match=r"do not sum to 1, so it is unclear what model\.operating_point is"):
        read_head(_spec(**options), raw, lambda: far)
    assert not read_head(_spec(labels=THREE), raw, lambda: far).outputs_probabilities
    assert not read_head(_spec(**options, output="logits"), raw, lambda: far).outputs_probabilities
    assert read_head(_spec(**options), raw / raw.sum(dim=1, keepdim=True), lambda: far).outputs_probabilities


@pytest.mark.parametrize("far", [1000 * RAW.abs(), -RAW.abs()])
def test_scores_that_grow_with_brightness_or_change_their_sign_there_are_logits(far):
    options = {"labels": THREE, "positive": "benign", "operating_point": 0.4}
    assert not read_head(_spec(**options), RAW.abs(), lambda: far).outputs_probabilities


@pytest.mark.parametrize("far", [[[1.0], [1.0]], [[0.0], [0.4]]])
def test_a_probability_stated_as_a_logit(far):
    raw = torch.tensor([[0.1], [0.7]])
    with pytest.raises(CandidateError, match=r"says logits, but .* stay there on far brighter inputs.*; set probab"):
        read_head(_spec(task="binary", output="logits"), raw, lambda: torch.tensor(far))


@pytest.mark.parametrize("raw", [[[0.1], [0.7]], [[0.0], [0.0]]])
def test_one_logit_that_brightness_does_not_move_is_what_the_policy_says(raw):
    """As of a network that takes it away, or one that was never trained."""
    raw = torch.tensor(raw)
    assert not read_head(_spec(task="binary", output="logits"), raw, lambda: raw).outputs_probabilities


def test_logits_stated_as_probabilities():
    with pytest.raises(CandidateError, match=r"output says probabilities.* range from -3 to 4; set logits, or auto"):
        read_head(_spec(labels=THREE, output="probabilities"), RAW)
    with pytest.raises(CandidateError, match=r"says probabilities, .* range from -2 to 0\.3; set logits, or auto"):
        read_head(_spec(task="binary", output="probabilities"), torch.tensor([[0.3], [-2.0]]))


def test_probabilities_stated_as_logits():
    with pytest.raises(
        CandidateError, match=r"output says logits, but .* all 3 samples .* sum to 1.*; set probabilities"
    ):
        read_head(_spec(labels=THREE, output="logits"), RAW.softmax(dim=1))


# --- widths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape", "match"),
    [
        (
            {"labels": THREE},
            (4, 2),
            r"gives 2 scores per sample, .* names 3 \(normal, benign, malignant\); wrap a network that gives other "
            r"scores \(docs/policy\.md, 'Scores that are not the labels'\)$",
        ),
        ({"labels": TWO}, (4, 1), r"gives 1 scores per sample.*; did you mean task: binary\?"),
        (
            {"labels": TWO, "task": "binary"},
            (4, 2),
            r"one score per sample; .* gives 2; did you mean task: multiclass\?",
        ),
        (
            {"labels": TWO, "task": "binary"},
            (4, 3),
            r"a binary task has one score per sample; the candidate gives 3; give its place in model\.scores, ",
        ),
        ({"labels": TWO}, (4, 2, 7, 7), r"scores have shape \(4, 2, 7, 7\); \(samples, labels\) is needed"),
        (
            {"labels": tuple("abcdefgh")},
            (4, 9),
            r"names 8 \(a, b, c, d, e, f, …\); give the places of the labels' scores",
        ),
        ({"labels": tuple("abcde")}, (4, 1), r"gives 1 scores .*names 5 \(.*; .*docs/policy\.md, 'Scores that"),
        ({"labels": TWO, "scores": (0, 4)}, (4, 4), r"model\.scores names place 4, but the candidate gives 4 scores"),
    ],
)
def test_labels_that_do_not_match(options, shape, match):
    with pytest.raises(CandidateError, match=match):
        read_head(_spec(**options), torch.zeros(shape))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers(value):
    raw = RAW.clone()
    raw[1:, 2] = value
    match = r"NaN or infinite scores on 2 of 3 unattacked samples \(first: number 1\); check the weights"
    with pytest.raises(CandidateError, match=match):
        read_head(_spec(labels=THREE), raw)


# --- logits --------------------------------------------------------------------------------------------------------


def test_every_head_says_the_same_of_the_same_network():
    two = RAW[:, :2]
    expected = two.softmax(dim=1)
    one = two[:, 1:] - two[:, :1]
    heads = [
        (_head(), two),
        (_head(outputs_probabilities=True), expected),
        (_head(binary=True), one),
        (_head(binary=True, outputs_probabilities=True), one.sigmoid()),
    ]
    for head, raw in heads:
        logits = head.logits(raw)
        assert logits.shape == (3, 2)
        torch.testing.assert_close(logits.softmax(dim=1), expected)
        torch.testing.assert_close(logits[:, 1] - logits[:, 0], one.squeeze(1), rtol=1e-5, atol=1e-5)


def test_logits_are_float32():
    assert _head().logits(RAW.half()).dtype == torch.float32
    assert _head(outputs_probabilities=True).logits(RAW.softmax(1).double()).dtype == torch.float32


def test_certainty_stays_finite():
    head = _head(labels=THREE, outputs_probabilities=True)
    logits = head.logits(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    assert logits.isfinite().all()
    assert head.decide(logits).tolist() == [0, 2]
    binary = _head(binary=True, outputs_probabilities=True)
    assert binary.decide(binary.logits(torch.tensor([[0.0], [1.0]]))).tolist() == [0, 1]


def _gradient(objective, raw, probability, head):
    raw = raw.clone().requires_grad_()
    loss = objective(head.logits(probability(raw)), torch.zeros(len(raw), dtype=torch.int64)).sum()
    return torch.autograd.grad(loss, raw)[0]


def _plain_cross_entropy(probabilities, labels):
    """What a library computes that takes a softmax head's probabilities for logits."""
    return cross_entropy(probabilities, labels, reduction="none")


def test_the_gradient_of_a_sure_softmax_head_does_not_vanish():
    raw = torch.tensor([[40.0, 0.0, -3.0]])  # the probability of label 0 rounds to 1
    assert raw.softmax(dim=1)[0, 0] == 1
    head, plain = _head(labels=THREE, outputs_probabilities=True), _head(labels=THREE)
    gradient = _gradient(log_odds, raw, lambda scores: scores.softmax(dim=1), head)
    torch.testing.assert_close(gradient[0, 0], torch.tensor(-1.0))
    assert gradient[0, 1] > 0.9
    naive = _gradient(_plain_cross_entropy, raw, lambda scores: scores.softmax(dim=1), plain)
    assert naive.abs().max() < 1e-15
    entropy = _gradient(_plain_cross_entropy, raw, lambda scores: scores, plain)
    assert entropy[0, 0] == 0  # even on logits, cross-entropy rounds to no gradient where log-odds do not


def test_the_gradient_of_a_sure_sigmoid_head_does_not_vanish():
    raw = torch.tensor([[-30.0]])  # sure of label 0
    head = _head(binary=True, outputs_probabilities=True)
    torch.testing.assert_close(_gradient(log_odds, raw, torch.sigmoid, head), torch.tensor([[1.0]]))
    torch.testing.assert_close(_gradient(log_odds, raw, lambda one: one, _head(binary=True)), torch.tensor([[1.0]]))


# --- decisions -----------------------------------------------------------------------------------------------------


def _logits_of(*rows):
    return torch.tensor(rows).log()


def test_without_an_operating_point_the_highest_score_decides():
    assert _head(labels=THREE).decide(_logits_of([0.2, 0.5, 0.3], [0.4, 0.3, 0.3])).tolist() == [1, 0]
    assert _head(labels=THREE, positive=2).decide(_logits_of([0.2, 0.5, 0.3])).tolist() == [1]


@pytest.mark.parametrize(
    ("positive", "probability", "decision"), [(1, 0.31, 1), (1, 0.29, 0), (0, 0.31, 0), (0, 0.29, 1)]
)
def test_two_labels_at_an_operating_point(positive, probability, decision):
    head = _head(positive=positive, operating_point=0.3)
    row = [1 - probability, probability] if positive else [probability, 1 - probability]
    assert head.decide(_logits_of(row)).tolist() == [decision]
    binary = _head(binary=True, positive=positive, operating_point=0.3)
    logit = torch.tensor([[row[1]]]).logit()
    assert binary.decide(binary.logits(logit)).tolist() == [decision]


def test_three_labels_at_an_operating_point():
    head = _head(labels=THREE, positive=2, operating_point=0.2)
    logits = _logits_of([0.5, 0.29, 0.21], [0.3, 0.51, 0.19], [0.51, 0.3, 0.19], [0.1, 0.1, 0.8])
    assert head.decide(logits).tolist() == [2, 1, 0, 2]
    strict = _head(labels=THREE, positive=2, operating_point=0.9)  # it reads another label though 2 is the likeliest
    assert strict.decide(logits).tolist() == [0, 1, 0, 0]


@given(st.floats(0.01, 0.99), st.lists(st.floats(-8, 8), min_size=3, max_size=3), st.integers(0, 2))
def test_the_operating_point_is_a_threshold_on_the_probability(point, row, positive):
    logits = torch.tensor([row])
    row = logits[0].tolist()
    head = _head(labels=THREE, positive=positive, operating_point=point)
    probability = float(logits.double().softmax(dim=1)[0, positive])
    decision = int(head.decide(logits)[0])
    if abs(probability - point) > 1e-5:
        assert (decision == positive) == (probability > point)
    if decision != positive:
        others = [label for label in range(3) if label != positive]
        assert row[decision] == max(row[label] for label in others)


@pytest.mark.parametrize("point", [None, 0.3])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_are_no_answer(point, value):
    logits = RAW.clone()
    logits[1, 0] = value
    head = _head(labels=THREE, positive=1, operating_point=point)
    decision = head.decide(logits)
    assert decision[1] == NO_ANSWER
    assert (decision[[0, 2]] != NO_ANSWER).all()


def test_probabilities_that_are_no_numbers_are_no_answer():
    head = _head(binary=True, outputs_probabilities=True)
    assert head.decide(head.logits(torch.tensor([[torch.nan], [torch.inf], [0.2]]))).tolist() == [-1, -1, 0]


def test_the_positive_labels_probability():
    logits = _logits_of([0.5, 0.3, 0.2])
    assert _head(labels=THREE).positive_probability(logits) is None
    for positive, probability in ((2, 0.2), (0, 0.5)):
        shown = _head(labels=THREE, positive=positive).positive_probability(logits).float()
        torch.testing.assert_close(shown, torch.tensor([probability]))
    binary = _head(binary=True, positive=0)
    shown = binary.positive_probability(binary.logits(torch.tensor([[log(3)]])))
    torch.testing.assert_close(shown.float(), torch.tensor([0.25]))


def test_of_samples_that_a_network_is_sure_of_the_surer_one_has_the_higher_probability():
    sure = torch.arange(-35.0, 36)[:, None]
    for head in (_head(binary=True, positive=1), _head(positive=1)):
        logits = sure if head.binary else torch.cat([-sure / 2, sure / 2], dim=1)
        assert (head.positive_probability(head.logits(logits)).diff() > 0).all()


THRESHOLDS = [number / 1000 for number in range(1, 1000)]


def test_a_probability_that_is_the_operating_point_is_positive():
    """As where it is compared with the threshold itself; what is lower by more than float32's error is not."""
    at = torch.tensor(THRESHOLDS)
    for share, read in ((1, 1), (1 - 3e-6, 0)):
        scores = (at.double() * share).float()
        two = torch.stack([1 - scores.double(), scores.double()], dim=1).float()
        three = torch.stack([0.3 * two[:, 0], scores, 0.7 * two[:, 0]], dim=1)
        for labels, raws in ((TWO, scores[:, None]), (TWO, two), (THREE, three)):
            options = {"labels": labels, "binary": raws.shape[1] == 1, "outputs_probabilities": True, "positive": 1}
            heads = [_head(**options, operating_point=point) for point in THRESHOLDS]
            positive = [int(head.decide(head.logits(raw[None]))) for head, raw in zip(heads, raws, strict=True)]
            assert [point for point, label in zip(THRESHOLDS, positive, strict=True) if (label == 1) != read] == []


@pytest.mark.parametrize("point", [1e-30, 1e-50, 1 - 1e-9])
def test_an_operating_point_at_an_end(point):
    head = _head(binary=True, outputs_probabilities=True, positive=1, operating_point=point)
    assert head.decide(head.logits(torch.tensor([[0.0], [1.0]]))).tolist()[1] == 1
    assert head.at_operating_point(head.logits(torch.tensor([[0.5]]))).isfinite().all()


def test_a_head_is_read_from_the_policy():
    head = read_head(_spec(labels=THREE, positive="benign", operating_point=0.4), RAW)
    assert (head.labels, head.positive, head.operating_point, head.binary) == (THREE, 1, 0.4, False)


@pytest.mark.parametrize("labels", [2, 3, 5])
@pytest.mark.parametrize("point", [0.2, 0.5, 0.9])
def test_the_decision_at_an_operating_point_turns_where_the_margin_is_zero(labels, point):
    head = _head([f"label {k}" for k in range(labels)], positive=1, operating_point=point)
    logits = torch.randn(400, labels, generator=torch.Generator().manual_seed(3), dtype=torch.float64).float()
    decision, searched = head.decide(logits), head.at_operating_point(logits)
    assert searched.argmax(dim=1).tolist() == decision.tolist()
    odds = logits[:, 1] - logits[:, [k for k in range(labels) if k != 1]].logsumexp(dim=1)
    margins = margin(searched, torch.ones(400, dtype=torch.int64))
    assert torch.allclose(-margins, odds - log(point / (1 - point)), atol=1e-5)
