"""A label that an ONNX file names beside its scores has to be the one that they are highest for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, drawn
from onnx import TensorProto, helper, numpy_helper

from robustcheck.errors import CandidateError
from robustcheck.models.onnx.labels import _below_the_highest, differing, places_of

WEIGHTS = drawn(tiny.HEIGHT * tiny.WIDTH, 2)
WEIGHTS -= WEIGHTS.mean(axis=0)  # so that each label is some image's


def _save(path, *, shift=0.0, names=None, smallest=False, batch="n"):
    """Linear scores, and the label of the larger one once `shift` is added to the second."""
    model = tiny.save_linear_onnx(path, WEIGHTS, shape=(batch, 1, tiny.HEIGHT, tiny.WIDTH))
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.float32([0, shift]), "shift"))
    graph.node.append(helper.make_node("Add", ["scores", "shift"], ["moved"]))
    graph.node.append(helper.make_node("ArgMin" if smallest else "ArgMax", ["moved"], ["place"], axis=1, keepdims=0))
    kind, output = TensorProto.INT64, "place"
    if names:
        graph.initializer.append(helper.make_tensor("names", TensorProto.STRING, [2], [n.encode() for n in names]))
        graph.node.append(helper.make_node("Gather", ["names", "place"], ["named"]))
        kind, output = TensorProto.STRING, "named"
    graph.output.insert(0, helper.make_tensor_value_info(output, kind, [batch]))
    onnx.save(model, path)


def _told(candidate):
    return [note for note in candidate.info.notes if "names another label" in note]


@pytest.mark.parametrize("batch", ["n", 4])
@pytest.mark.parametrize("names", [None, ("healthy", "ill")])
def test_scores_in_the_opposite_order_are_refused(names, batch, tmp_path, refused):
    _save(tmp_path / "net.onnx", names=names, smallest=True, batch=batch)
    refused(
        tmp_path / "net.onnx",
        r"names another label .* on 7 of 7 samples that were compared; give .* model\.scores",
        samples=IMAGES,
    )
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES, scores=(1, 0))
    assert _told(candidate) == []


@pytest.mark.parametrize("names", [None, ("healthy", "ill")])
def test_labels_that_are_what_the_scores_say_are_not_spoken_of(names, tmp_path):
    _save(tmp_path / "net.onnx", names=names)
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert len(logits.argmax(dim=1).unique()) == 2
    assert _told(candidate) == []


def test_names_count_and_not_their_order_in_the_file(tmp_path, refused):
    _save(tmp_path / "net.onnx", names=("ill", "healthy"))
    refused(tmp_path / "net.onnx", "names another label", samples=IMAGES)


def test_labels_at_another_threshold_are_told(tmp_path):
    _save(tmp_path / "net.onnx")
    _, logits = tiny.load(tmp_path / "net.onnx", IMAGES)
    margins = (logits[:, 0] - logits[:, 1]).sort().values
    least = margins[margins > 0][0].item()
    _save(tmp_path / "net.onnx", shift=least * 1.01)
    (note,) = _told(tiny.load(tmp_path / "net.onnx", IMAGES)[0])
    assert note.endswith("on 1 of 7 samples that were compared: what is judged is scores")


@pytest.mark.parametrize("names", [("a", "b"), ("healthy", "b")])
def test_names_that_the_policy_has_not_tell_nothing(names, tmp_path):
    _save(tmp_path / "net.onnx", names=names, smallest=True)
    assert _told(tiny.load(tmp_path / "net.onnx", IMAGES)[0]) == []


def test_labels_at_an_operating_point_need_not_be_the_highest_scores(tmp_path):
    _save(tmp_path / "net.onnx", shift=1.0)
    assert _told(tiny.load(tmp_path / "net.onnx", IMAGES)[0])
    options = {"positive": "ill", "operating_point": 0.3}
    assert _told(tiny.load(tmp_path / "net.onnx", IMAGES, **options)[0]) == []


def test_labels_may_count_from_one_or_be_names_that_are_numbers(tmp_path):
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [5.0, 1.0, 2.0]])
    labels = torch.tensor([[1.0], [2.0], [1.0]])

    def note(told, names=("a", "b", "c")):
        spec = SimpleNamespace(labels=names, scores=None, operating_point=None)
        return differing(lambda _: scores, lambda _: told, [scores], spec, output="scores", label="label")

    assert note(labels) is None
    with pytest.raises(CandidateError, match="on 3 of 3 samples"):
        note(torch.tensor([[2.0], [0.0], [1.0]]))
    assert places_of([1, 2, 7], ("1", "2", "3")) == [0.0, 1.0, 7.0]


@pytest.mark.parametrize("values", [[0, 1, 0], 1])
def test_an_answer_that_is_not_one_for_each_image_is_no_label(values, tmp_path):
    _save(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.int64(values), "classes"))
    model.graph.node.append(helper.make_node("Identity", ["classes"], ["of_all"]))
    model.graph.output.remove(model.graph.output[0])
    model.graph.output.insert(0, helper.make_tensor_value_info("of_all", TensorProto.INT64, ["classes"]))
    onnx.save(model, tmp_path / "net.onnx")
    assert _told(tiny.load(tmp_path / "net.onnx", IMAGES)[0]) == []


def test_a_number_that_is_the_same_for_all_is_no_label(tmp_path):
    _save(tmp_path / "net.onnx", shift=1e6)
    assert _told(tiny.load(tmp_path / "net.onnx", IMAGES)[0]) == []


def test_equal_scores_are_no_difference():
    scores = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert _below_the_highest(scores, torch.tensor([0, 1, 0])).tolist() == [False, False, True]
