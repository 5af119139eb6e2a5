"""Operators of the twin that work along axes: those that count from the end, and places in several axes at once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, agrees_with_runtime, drawn, gradient_of, model_of, one_node, refused_by
from onnx import TensorProto, helper
from torch import nn

from robustcheck.models.twin import converted

FLOAT = {"y": TensorProto.FLOAT}
REDUCTIONS = ["ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean"]


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("axes", [[-2, -1], [-1, -3], [1, -1], [-2]])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_along_axes_from_the_end(name, axes, kept):
    by_attribute = helper.make_node(name, ["x"], ["y"], axes=axes, keepdims=kept)
    inputs = {"x": drawn(2, 3, 4, 5)}
    agrees_with_runtime(one_node(by_attribute, inputs, FLOAT), inputs, atol=1e-5)
    by_input = helper.make_node(name, ["x", "axes"], ["y"], keepdims=kept)
    inputs["axes"] = np.array(axes)
    agrees_with_runtime(one_node(by_input, inputs, FLOAT, opset=20), inputs, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize(("name", "shape"), [("Squeeze", (2, 3, 1, 1)), ("Unsqueeze", (2, 3))])
def test_axes_from_the_end_come_and_go(name, shape, opset):
    inputs = {"x": drawn(*shape)}
    for axes in ([-2, -1], [-1, 2], [-1]):
        given = {"axes": axes} if opset == 11 else {}
        node = helper.make_node(name, ["x", *([] if given else ["axes"])], ["y"], **given)
        inputs |= {} if given else {"axes": np.array(axes)}
        agrees_with_runtime(one_node(node, inputs, FLOAT, opset=opset), inputs, atol=0)


def test_the_largest_of_each_map(tmp_path):
    """`x.amax(dim=(-2, -1))`, in a file."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["maps"]),
        helper.make_node("ReduceMax", ["maps"], ["scores"], axes=[-2, -1], keepdims=0),
    ]
    weights = drawn(2, 1, 3, 3)
    onnx.save(model_of(nodes, held=[("w", weights)]), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    images = IMAGES.shares().requires_grad_()
    scores = nn.functional.conv2d(images, torch.from_numpy(weights)).amax(dim=(-2, -1))
    torch.testing.assert_close(gradient_of(candidate), torch.autograd.grad(scores[:, 0].sum(), images)[0])


@pytest.mark.parametrize("shared", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_values_at_places(depth, shared):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    sizes = values.shape[shared : shared + depth]
    places = rng.integers([-size for size in sizes], sizes, size=(*values.shape[:shared], 6, depth))
    inputs = {"x": values, "places": places}
    node = helper.make_node("GatherND", list(inputs), ["y"], batch_dims=shared)
    agrees_with_runtime(one_node(node, inputs, FLOAT), inputs, atol=0)


def test_many_places_are_one_step():
    """torch.export writes what indexes activations by tensors like that; a step a place would never end."""
    places = torch.cartesian_prod(torch.arange(200), torch.arange(300)).view(200, 300, 2)
    values = torch.rand(200, 300, requires_grad=True)
    inputs = {"x": values.detach().numpy(), "places": places.numpy()}
    module = converted(one_node(helper.make_node("GatherND", list(inputs), ["y"]), inputs, FLOAT))
    answer = module.forward(values, places)
    assert torch.equal(answer, values)
    steps, new = set(), {answer.grad_fn}
    while new:
        steps |= new
        new = {before for step in new for before, _ in step.next_functions if before is not None} - steps
    assert len(steps) < 10


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(
    ("pads", "axes"),
    [
        ([0, 0, 1, 2, 0, 0, 2, 1], None),
        ([1, 2, 2, 1], [-2, -1]),
        ([2, 1, 0, 1], [-1, 2]),
        ([1, 1], [2]),
        ([1, 1], [-1]),
        ([0, 0], [-1]),
        ([0, 0, -1, 1, 0, 0, 0, -2], None),
    ],
)
def test_pads_along_axes(pads, axes, mode):
    if mode != "constant" and min(pads) < 0:
        return  # ONNX Runtime and the standard differ there
    inputs = {"x": drawn(2, 3, 4, 5), "pads": np.array(pads), "fill": np.float32(0.5)}
    inputs |= {} if axes is None else {"axes": np.array(axes)}
    node = helper.make_node("Pad", list(inputs), ["y"], mode=mode)
    agrees_with_runtime(one_node(node, inputs, FLOAT, opset=19), inputs, atol=0)


@pytest.mark.parametrize(("name", "gates", "usual"), [("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 1)])
@pytest.mark.parametrize(
    ("settings", "lengths", "words"),
    [
        ({"clip": 0.1}, None, "with clip"),
        ({"activations": True}, None, "with activations Relu, "),
        ({}, 3, "with sequence_lens"),
        ({}, tiny.HEIGHT, None),
    ],
)
def test_recurrent_layers_are_followed_or_named(name, gates, usual, settings, lengths, words, tmp_path):
    """Rows of the image are the sequence."""
    if "activations" in settings:
        settings = {"activations": ["Relu", "Tanh", "Tanh"][:usual]}
        words = words if usual > 1 else "with activations Relu"
    nodes = [
        helper.make_node("Squeeze", ["image", "one"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["sequence"], perm=[1, 0, 2]),
        helper.make_node(
            name, ["sequence", "w", "r", "", "lengths" if lengths else ""], ["", "last"], hidden_size=2, **settings
        ),
        helper.make_node("Squeeze", ["last", "zero"], ["scores"]),
    ]
    held = [
        ("one", np.array([1])),
        ("zero", np.array([0])),
        ("w", drawn(1, 2 * gates, tiny.WIDTH)),
        ("r", drawn(1, 2 * gates, 2, seed=1)),
        *([("lengths", np.full(7, lengths, np.int32))] if lengths else []),
    ]
    batch = 7 if lengths else "n"
    onnx.save(model_of(nodes, inputs=(batch, 1, tiny.HEIGHT, tiny.WIDTH), held=held), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    if words is None:
        assert gradient_of(candidate).any()
    else:
        refused_by(candidate, rf"its operator {name} \(opset 17\) has no differentiable form here \({words}")
