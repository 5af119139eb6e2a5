"""The twin's operators: the conformance cases of the onnx package, and gradients through rounding."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from benchmarks.onnx_conformance import cases, disagreement
from robustcheck.models.twin.quantised import _quantise, _quantise_dynamically
from robustcheck.models.twin.rounding import _cast_to, straight_through

CASES = list(cases())


def test_there_are_as_many_cases_as_there_were():
    assert len(CASES) >= 530
    counts = Counter(case.operator for case in CASES)
    assert counts["Resize"] >= 30
    assert counts["Attention"] >= 60
    assert len(counts) >= 80


@pytest.mark.parametrize("operator", sorted({case.operator for case in CASES}))
@pytest.mark.filterwarnings("ignore:The use of `x.T`")
def test_an_operator_is_the_standards(operator):
    wrong = [f"{case.name}: {reason}" for case in CASES if case.operator == operator and (reason := disagreement(case))]
    assert wrong == []


def test_a_wrong_answer_is_seen():
    (case,) = (case for case in CASES if case.name == "relu")
    case.outputs[0] = case.outputs[0] + 0.01
    assert disagreement(case) == "differs by 0.01"


def test_gradients_pass_through_rounding():
    values = torch.tensor([0.2, 0.7, 1.5], requires_grad=True)
    rounded = straight_through(values, values.round())
    assert rounded.tolist() == [0.0, 1.0, 2.0]
    assert torch.autograd.grad(rounded.sum(), values)[0].tolist() == [1.0, 1.0, 1.0]
    whole = _cast_to(values, torch.int64)
    assert whole.tolist() == [0.0, 0.0, 1.0]
    assert torch.autograd.grad(whole.sum(), values)[0].tolist() == [1.0, 1.0, 1.0]
    assert _cast_to(values.detach(), torch.int64).dtype == torch.int64


def test_what_is_cut_off_has_no_gradient():
    values = torch.tensor([-9.0, 1.0, 9.0], requires_grad=True)
    whole = _quantise(values, torch.tensor(0.01), torch.tensor(3, dtype=torch.int8))
    assert whole.tolist() == [-128.0, 103.0, 127.0]
    assert torch.autograd.grad(whole.sum(), values)[0].tolist() == [0.0, pytest.approx(100.0), 0.0]


def test_each_image_is_quantised_by_its_own_range():
    images = torch.tensor([[[0.0, 1.0]], [[0.0, 10.0]]])
    whole, scale, _ = _quantise_dynamically(images)
    assert whole.tolist() == [[[0, 255]], [[0, 255]]]
    assert scale.flatten().tolist() == pytest.approx([1 / 255, 10 / 255])
