"""A label that an ONNX file names beside its scores has to be the one that they are highest for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, drawn
from onnx import TensorProto, helper, numpy_helper

from robustcheck.models.onnx.labels import _below_the_highest

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
    refused(tmp_path / "net.onnx", r"names another label .* on 7 of 7 samples; say .* model\.scores", samples=IMAGES)
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
    assert note.endswith("on 1 of 7 samples: what is judged is scores")


@pytest.mark.parametrize("names", [("a", "b"), ("healthy", "b")])
def test_names_that_the_policy_has_not_tell_nothing(names, tmp_path):
    _save(tmp_path / "net.onnx", names=names, smallest=True)
    assert _told(tiny.load(tmp_path / "net.onnx", IMAGES)[0]) == []


def test_a_number_that_is_the_same_for_all_is_no_label(tmp_path):
    _save(tmp_path / "net.onnx", shift=1e6)
    assert _told(tiny.load(tmp_path / "net.onnx", IMAGES)[0]) == []


def test_equal_scores_are_no_difference():
    scores = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert _below_the_highest(scores, torch.tensor([0, 1, 0])).tolist() == [False, False, True]
