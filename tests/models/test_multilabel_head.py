"""Several findings an image: raw scores become log-odds, and log-odds sets of findings."""

from __future__ import annotations

from math import log

import pytest
import tiny_models as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustcheck.attacks import objective
from robustcheck.errors import AccessError, CandidateError
from robustcheck.models import ScoreOracle
from robustcheck.models.head import NO_ANSWER
from robustcheck.models.multilabel_head import FindingsHead
from robustcheck.models.score_kind import read_head
from robustcheck.policy import ModelSpec
from robustcheck.threats import Goal

THREE = ("effusion", "nodule", "mass")
RAW = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.5, 4.0], [-0.2, -0.3, -0.1]])


def _spec(**options) -> ModelSpec:
    return tiny.spec("net.ts", **{"task": "multilabel", "labels": THREE, **options})


def _head(**options) -> FindingsHead:
    given_ = {
        "labels": THREE,
        "outputs_probabilities": False,
        "positive": None,
        "operating_point": (0.5,) * 3,
        "found": "",
    }
    return FindingsHead(**{**given_, **options})


# --- what the scores are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["auto", "logits"])
def test_logits_are_told(output):
    head = read_head(_spec(output=output), RAW)
    assert not head.outputs_probabilities
    assert head.found == f"logits ({'inferred from 3 samples' if output == 'auto' else 'as the policy says'})"


@pytest.mark.parametrize("output", ["auto", "probabilities"])
def test_probabilities_need_not_sum_to_1(output):
    assert read_head(_spec(output=output), RAW.sigmoid(), lambda: torch.eye(3)).outputs_probabilities


def test_logits_that_lie_between_0_and_1_on_every_sample_leave_that_beyond():
    unsure = torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.3, 0.4]])
    assert not read_head(_spec(), unsure, lambda: 1000 * unsure).outputs_probabilities
    assert read_head(_spec(), unsure, lambda: torch.ones(2, 3)).outputs_probabilities
    assert not read_head(_spec(output="logits"), unsure).outputs_probabilities
    with pytest.raises(CandidateError, match=r"all 2 samples lie between 0 and 1, and .*; set model\.output: probab"):
        read_head(_spec(), unsure, lambda: unsure)


def test_mistakes():
    with pytest.raises(CandidateError, match=r"says probabilities, but .* range from -3 to 4; set logits, or auto"):
        read_head(_spec(output="probabilities"), RAW)
    with pytest.raises(CandidateError, match=r"gives 2 scores per sample, .* names 3 \(effusion, nodule, mass\); "):
        read_head(_spec(), RAW[:, :2])
    with pytest.raises(CandidateError, match=r"NaN or infinite scores on 1 of 3"):
        read_head(_spec(), RAW.clone().index_put_((torch.tensor(1), torch.tensor(2)), torch.tensor(torch.nan)))


@pytest.mark.parametrize(
    ("written", "read"), [(None, (0.5,) * 3), (0.3, (0.3,) * 3), ([0.1, 0.5, 0.9], (0.1, 0.5, 0.9))]
)
def test_operating_points(written, read):
    options = {} if written is None else {"operating_point": written}
    head = read_head(_spec(positive="mass", **options), RAW)
    assert (head.labels, head.positive, head.operating_point) == (THREE, 2, read)


# --- logits --------------------------------------------------------------------------------------------------------


def test_probabilities_become_the_logits_that_they_came_from():
    torch.testing.assert_close(_head(outputs_probabilities=True).logits(RAW.sigmoid()), RAW)
    torch.testing.assert_close(_head().logits(RAW.double()), RAW)
    torch.testing.assert_close(_head().probabilities(RAW).float(), RAW.sigmoid())


def test_certainty_stays_finite():
    head = _head(outputs_probabilities=True)
    logits = head.logits(torch.tensor([[1.0, 0.0, 0.5]]))
    assert logits.isfinite().all()
    assert head.decide(logits).tolist() == [0b101]


def test_the_gradient_of_a_sure_sigmoid_head_does_not_vanish():
    raw = torch.tensor([[-30.0, -30.0, -30.0]], requires_grad=True)
    loss = objective("margin", Goal(labels=3, multilabel=True))(
        _head(outputs_probabilities=True).logits(raw.sigmoid()), torch.tensor([0]), torch.tensor([0])
    )
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), raw)[0].sum(), torch.tensor(1.0))


# --- decisions -----------------------------------------------------------------------------------------------------


def test_a_probability_that_is_the_operating_point_is_present():
    points = tuple(number / 1000 for number in range(1, 1000))
    for start in range(0, 999, 37):  # so many fit into a reading
        some = points[start : start + 37]
        head = _head(labels=tuple(map(str, some)), outputs_probabilities=True, operating_point=some)
        at = torch.tensor([some])
        present = head.decide(head.logits(torch.cat([at, at * (1 - 3e-6)]))).tolist()
        assert present == [2 ** len(some) - 1, 0], some


def test_of_samples_that_a_network_is_sure_of_the_surer_one_has_the_higher_probability():
    sure = torch.arange(-35.0, 36)[:, None].expand(-1, 3)
    assert (_head(positive=1).positive_probability(sure).diff() > 0).all()
    assert (_head().probabilities(sure).diff(dim=0) > 0).all()


def test_a_reading_is_a_set_of_findings():
    head = _head(positive=1)
    readings = head.decide(RAW)
    assert readings.dtype == torch.int64
    assert readings.tolist() == [0b101, 0b110, 0]
    assert [head.name(reading) for reading in readings.tolist()] == ["effusion + mass", "nodule + mass", "(no finding)"]
    assert [head.is_positive(reading) for reading in readings.tolist()] == [False, True, False]
    assert head.name(NO_ANSWER) == "(no answer)"
    assert not head.is_positive(NO_ANSWER)
    assert not _head().is_positive(0b111)


def test_sixty_two_findings_fit_into_a_reading():
    labels = tuple(f"finding {index}" for index in range(62))
    head = _head(labels=labels, operating_point=(0.5,) * 62, positive=61)
    (every,) = head.decide(torch.ones(1, 62)).tolist()
    assert every == 2**62 - 1
    assert head.is_positive(every)
    assert head.name(1 << 61) == "finding 61"


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(-8, 8)), min_size=3, max_size=3))
def test_each_finding_has_its_threshold(findings):
    head = _head(operating_point=tuple(point for point, _ in findings))
    logits = torch.tensor([[logit for _, logit in findings]])
    reading = int(head.decide(logits)[0])
    for bit, (point, _) in enumerate(findings):
        probability = float(logits[0, bit].double().sigmoid())
        if abs(probability - point) > 1e-5:
            assert bool(reading >> bit & 1) == (probability > point)


def test_at_the_operating_point_losses_are_above_0_exactly_where_the_reading_turns():
    head = _head(operating_point=(0.1, 0.5, 0.9))
    logits = torch.tensor([[-2.0, -0.1, 2.3], [-2.3, -0.1, 2.1], [-2.3, 0.1, 2.3]])
    readings = head.decide(logits)
    assert readings.tolist() == [0b101, 0b000, 0b110]
    shifted = head.at_operating_point(logits)
    torch.testing.assert_close(shifted[0], torch.tensor([log(9) - 2, -0.1, 2.3 - log(9)]))
    goal = Goal(labels=3, multilabel=True)
    for truth in range(8):
        labels = torch.full((3,), truth)
        loss = objective("margin", goal)(shifted, labels, labels)
        assert ((loss > 0) == goal.met(readings, labels)).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_are_no_answer(value):
    logits = RAW.clone()
    logits[1, 0] = value
    assert (_head().decide(logits) == NO_ANSWER).tolist() == [False, True, False]


def test_the_positive_findings_probability():
    assert _head().positive_probability(RAW) is None
    torch.testing.assert_close(_head(positive=2).positive_probability(RAW).float(), RAW[:, 2].sigmoid())


# --- the candidate -------------------------------------------------------------------------------------------------


SIGMOID = """
import tiny_models

class Sigmoid(tiny_models.TinyNet):
    def forward(self, image):
        return super().forward(image).sigmoid()
"""


def _load(folder, **options):
    """Weights, whose network searches may look into."""
    given_ = {"task": "multilabel", "labels": THREE, "architecture_args": {"labels": 3}}
    return tiny.load(folder / "net.safetensors", **{**given_, **options})


def test_a_last_sigmoid_is_left_off_where_searches_look(tmp_path):
    (tmp_path / "sigmoid_net.py").write_text(SIGMOID)
    net = tiny.tiny_net(labels=3)
    net.fc.bias.data += 40  # sure of every finding: its probabilities round to 1, and their gradients to 0
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    candidate, logits = _load(tmp_path, architecture="sigmoid_net:Sigmoid", output="probabilities")
    assert candidate.info.operating_point == (0.5, 0.5, 0.5)
    assert candidate.info.output == "probabilities (as the policy says)"
    assert "last sigmoid" in " ".join(candidate.info.notes)
    labels = candidate.head.decide(logits)
    assert labels.tolist() == [0b111] * 6
    loss, images = objective("margin", Goal(labels=3, multilabel=True)), tiny.pictures().shares()
    assert (candidate.network.forward(candidate.preprocess(images)) == 1).all()  # its own gradient is 0
    for exact in (False, True):
        assert candidate.gradient(images, labels, labels, loss, exact=exact)[2].flatten(1).any(dim=1).all()


def test_a_faster_form_is_compared_by_sigmoids_and_every_findings_margin(tmp_path):
    tiny.save_safetensors(tiny.tiny_net(labels=3), tmp_path / "net.safetensors")
    candidate, logits = _load(tmp_path, output="logits", precision="auto")
    assert "faster form" in " ".join(candidate.info.notes)
    torch.testing.assert_close(candidate.search_logits(tiny.pictures().shares()), logits, rtol=0.1, atol=0.05)
    assert torch.equal(_head().margins(RAW), RAW)


def test_an_oracle_tells_log_odds_that_decide_as_the_candidate_does(tmp_path):
    tiny.save_exported(tiny.tiny_net(labels=3), tmp_path / "net.pt2")
    candidate, logits = tiny.load(tmp_path / "net.pt2", task="multilabel", labels=THREE, output="logits")
    oracle = ScoreOracle(candidate, samples=6, limit=1)
    told = oracle.scores(torch.arange(6), tiny.pictures().shares())
    torch.testing.assert_close(told, logits)
    assert candidate.head.decide(told).tolist() == candidate.head.decide(logits).tolist()
    with pytest.raises(AccessError):
        oracle.scores(torch.arange(6), tiny.pictures().shares())
