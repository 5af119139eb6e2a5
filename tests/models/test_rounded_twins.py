"""Graphs that round what they make of an image are followed straight through, and nothing else is let pass for it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, drawn, gradient_of, model_of, refused_by
from onnx import TensorProto, helper

from robustcheck.models.twin import convert
from robustcheck.models.twin.rounded_values import rounds

PIXELS = tiny.HEIGHT * tiny.WIDTH
ROUNDINGS = {
    "Round": [helper.make_node("Round", ["levels"], ["whole"])],
    "Floor": [helper.make_node("Floor", ["levels"], ["whole"])],
    "Ceil": [helper.make_node("Ceil", ["levels"], ["whole"])],
    "Cast": [
        helper.make_node("Cast", ["levels"], ["int"], to=TensorProto.INT32),
        helper.make_node("Cast", ["int"], ["whole"], to=TensorProto.FLOAT),
    ],
}


def _rounding(name, levels=9):
    nodes = [
        helper.make_node("Mul", ["image", "scale"], ["levels"]),
        *ROUNDINGS[name],
        helper.make_node("Div", ["whole", "scale"], ["steps"]),
        helper.make_node("Flatten", ["steps"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    return model_of(nodes, held=(("scale", np.float32(levels)), ("w", drawn(PIXELS, 2))))


@pytest.mark.parametrize("name", ROUNDINGS)
def test_gradients_go_straight_through(name, tmp_path):
    onnx.save(_rounding(name), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    expected = torch.from_numpy(drawn(PIXELS, 2))[:, 0]
    torch.testing.assert_close(gradient_of(candidate).flatten(1), expected.expand(len(IMAGES.shares()), -1))
    assert any("gradients go straight through its rounding" in note for note in candidate.info.notes)


def _change(monkeypatch, step):
    make = convert.converted

    def changed(model):
        module = make(model)
        output = next(node for node in module.graph.nodes if node.op == "output")
        with module.graph.inserting_before(output):
            output.replace_input_with(output.args[0], module.graph.call_function(step, (output.args[0],)))
        module.recompile()
        return module

    monkeypatch.setattr(convert, "converted", changed)


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (lambda scores: scores + 0.02, r"its score [12] of 2 differs by 0\.02"),
        (lambda scores: 2 * scores.detach() - scores, "ONNX Runtime's scores fall along its gradient"),
        (lambda scores: scores.detach() + 0 * scores, "its gradient is zero"),
    ],
)
def test_scores_agree_as_closely_as_elsewhere_and_gradients_lead_upwards(step, match, tmp_path, monkeypatch):
    onnx.save(_rounding("Round"), tmp_path / "net.onnx")
    _change(monkeypatch, step)
    refused_by(tiny.load(tmp_path / "net.onnx", IMAGES)[0], match)


INERT = {  # of every image a floor of 0, whose gradient goes straight through and takes the image's own away
    "half": [helper.make_node("Mul", ["floor", "half"], ["taken"])],
    "all": [helper.make_node("Identity", ["floor"], ["taken"])],
    "twice": [helper.make_node("Add", ["floor", "floor"], ["taken"])],
    "some pixels": [helper.make_node("Mul", ["floor", "mask"], ["taken"])],
}


@pytest.mark.parametrize("offset", [0.0, 0.25])
@pytest.mark.parametrize("ending", ["scores", "softmax"])
@pytest.mark.parametrize("name", INERT)
def test_a_floor_without_influence_excuses_no_gradient(name, ending, offset, tmp_path):
    """Without an offset it is -1 of what is darker than black."""
    nodes = [
        helper.make_node("Mul", ["image", "shrink"], ["small"]),
        helper.make_node("Add", ["small", "offset"], ["between"]),
        helper.make_node("Floor", ["between"], ["still"]),
        helper.make_node("Div", ["still", "shrink"], ["floor"]),
        *INERT[name],
        helper.make_node("Sub", ["image", "taken"], ["left"]),
        helper.make_node("Flatten", ["left"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores" if ending == "scores" else "logits"]),
        *([] if ending == "scores" else [helper.make_node("Softmax", ["logits"], ["scores"], axis=1)]),
    ]
    mask = np.random.default_rng(0).random((1, 1, tiny.HEIGHT, tiny.WIDTH)).round().astype(np.float32)
    held = [
        ("shrink", np.float32(0.5)),
        ("offset", np.float32(offset)),
        ("half", np.float32(0.5)),
        ("mask", mask),
        ("w", drawn(PIXELS, 2)),
    ]
    onnx.save(model_of(nodes, held=held), tmp_path / "net.onnx")
    refused_by(tiny.load(tmp_path / "net.onnx", IMAGES)[0], "its gradient")


@pytest.mark.parametrize("name", ROUNDINGS)
def test_what_rounds_the_image_is_found(name):
    assert rounds(_rounding(name))


def _loop(rounding):
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node(rounding, ["before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    return [helper.make_node("Loop", ["turns", "", "image"], ["scores"], body=body)]


def _of_a_size(rounding):
    return [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node(rounding, ["sizes"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["same"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["image", "same"], ["scores"]),
    ]


def _of_a_decision():
    return [
        helper.make_node("Greater", ["image", "turns"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Cast", ["whole"], ["scores"], to=TensorProto.FLOAT),
    ]


def _of_bytes():
    return [
        helper.make_node("Cast", ["image"], ["whole"], to=TensorProto.INT32),
        helper.make_node("Cast", ["whole"], ["scores"], to=TensorProto.FLOAT),
    ]


@pytest.mark.parametrize(
    ("nodes", "kind", "expected"),
    [
        (_loop("Floor"), TensorProto.FLOAT, True),
        (_loop("Relu"), TensorProto.FLOAT, False),
        (_of_a_size("Floor"), TensorProto.FLOAT, False),
        (_of_a_decision(), TensorProto.FLOAT, False),
        (_of_bytes(), TensorProto.UINT8, False),
        (_of_bytes(), TensorProto.FLOAT, True),
    ],
    ids=["in a loop", "a loop without", "of a size", "of a decision", "of bytes", "of floats"],
)
def test_only_what_comes_from_the_image_is_rounded(nodes, kind, expected):
    assert rounds(model_of(nodes, kind=kind, held=(("turns", np.array(3, np.int64)),))) is expected
