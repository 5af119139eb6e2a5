"""ONNX files as people export them: what ONNX Runtime says counts, and a twin of the graph gives its gradients."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, ZEROS, drawn, gradient_of, model_of, refused_by
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from robustcheck.errors import CandidateError


def _as_tf2onnx(*, opset=13):
    """NHWC, SAME padding with a stride, an uneven pad, softmax at the end: what tf2onnx makes of a Keras network."""
    nodes = [
        helper.make_node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Conv", ["nchw", "w1", "b1"], ["c1"], auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[3, 3]
        ),
        helper.make_node("Clip", ["c1", "zero", "six"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[0, 0, 1, 1], kernel_shape=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("ReduceMean", ["r2"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["pooled", "w3"], ["dense"]),
        helper.make_node("Add", ["dense", "b3"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    held = (
        ("w1", drawn(4, 3, 3, 3)),
        ("b1", drawn(4, seed=1)),
        ("zero", np.float32(0)),
        ("six", np.float32(6)),
        ("w2", drawn(4, 4, 2, 2, seed=2)),
        ("w3", 0.1 * drawn(4, 2, seed=3)),
        ("b3", drawn(2, seed=4)),
    )
    return model_of(nodes, inputs=("n", tiny.HEIGHT, tiny.WIDTH, 3), held=held, opset=opset)


def test_a_network_of_tf2onnx(tmp_path):
    onnx.save(_as_tf2onnx(), tmp_path / "keras.onnx")
    samples = tiny.pictures(7, channels=3)
    candidate, logits = tiny.load(tmp_path / "keras.onnx", samples, preprocess={"layout": "NHWC"})
    assert candidate.info.output == "probabilities (inferred from 7 samples)"
    images = samples.shares()
    gradient = gradient_of(candidate, images)
    assert gradient.shape == images.shape
    step = 1e-2 * gradient.sign()
    up, down = (candidate.logits(images + sign * step) for sign in (1, -1))
    assert ((up - down)[:, 0] > (up - down)[:, 1]).all()
    assert any("searches use the input of its last softmax" in note for note in candidate.info.notes)
    torch.testing.assert_close(candidate.search_logits(images).softmax(1), logits.softmax(1), rtol=1e-4, atol=1e-6)


def test_without_a_temporary_folder_a_graph_is_converted_as_it_is(tmp_path, monkeypatch):
    def none(**_):
        raise FileNotFoundError("No usable temporary directory found in ['/tmp']")

    onnx.save(_as_tf2onnx(), tmp_path / "keras.onnx")
    monkeypatch.setattr("tempfile.TemporaryDirectory", none)
    candidate, _ = tiny.load(tmp_path / "keras.onnx", tiny.pictures(7, channels=3), preprocess={"layout": "NHWC"})
    assert candidate.network.no_gradients is None


@pytest.mark.parametrize("opset", range(9, 13))
def test_softmax_of_old_opsets_is_left_off_too(opset, tmp_path):
    held = (("w", drawn(tiny.HEIGHT * tiny.WIDTH, 2)),)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    onnx.save(model_of(nodes, held=held, opset=opset), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    expected = torch.from_numpy(held[0][1])[:, 0].reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1)
    torch.testing.assert_close(gradient_of(candidate), expected)


def _opsets():
    """From 9 to the newest that ONNX Runtime runs."""
    return range(9, min(onnx.defs.onnx_opset_version(), 26) + 1)


@pytest.mark.parametrize("opset", _opsets())
def test_every_opset(opset, tmp_path):
    squeezed = [helper.make_node("Squeeze", ["pooled"], ["flat"], axes=[2, 3])]
    if opset >= 13:
        squeezed = [helper.make_node("Squeeze", ["pooled", "axes"], ["flat"])]
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["pooled"]),
        *squeezed,
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["scores"], transB=1),
    ]
    held = [
        ("w1", drawn(4, 1, 3, 3)),
        ("b1", drawn(4, seed=1)),
        ("w2", drawn(2, 4, seed=2)),
        ("b2", drawn(2, seed=3)),
        *([("axes", np.array([2, 3]))] if opset >= 13 else []),
    ]
    model = model_of(nodes, held=held, opset=opset)
    model.ir_version = 8 if opset < 19 else 10
    onnx.save(model, tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    values = {name: torch.from_numpy(value) for name, value in held}
    wanted = IMAGES.shares().requires_grad_()
    features = nn.functional.conv2d(wanted, values["w1"], values["b1"], padding=1).relu().mean(dim=(2, 3))
    scores = nn.functional.linear(features, values["w2"], values["b2"])
    torch.testing.assert_close(gradient_of(candidate), torch.autograd.grad(scores[:, 0].sum(), wanted)[0])


def test_the_only_output_of_floats_is_taken(tmp_path):
    weights = drawn(tiny.HEIGHT * tiny.WIDTH, 2)
    model = tiny.save_linear_onnx(tmp_path / "net.onnx", weights)
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
    model.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
    onnx.save(model, tmp_path / "net.onnx")
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES)
    torch.testing.assert_close(logits, IMAGES.shares().flatten(1) @ torch.from_numpy(weights), rtol=1e-4, atol=1e-5)
    assert "of its outputs, only scores can have the scores" in candidate.info.notes


@pytest.mark.parametrize("places", ["of all", "of rows"])
def test_sparse_weights(places, tmp_path):
    weights = drawn(tiny.HEIGHT * tiny.WIDTH, 2) * (drawn(tiny.HEIGHT * tiny.WIDTH, 2, seed=1) > 0)
    model = tiny.save_linear_onnx(tmp_path / "net.onnx", weights)
    del model.graph.initializer[:]
    found = np.argwhere(weights) if places == "of rows" else np.flatnonzero(weights)
    values = numpy_helper.from_array(weights[weights != 0], "w")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(found.astype(np.int64), "places"), weights.shape)
    )
    onnx.save(model, tmp_path / "net.onnx")
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES)
    torch.testing.assert_close(logits, IMAGES.shares().flatten(1) @ torch.from_numpy(weights), rtol=1e-4, atol=1e-5)
    expected = torch.from_numpy(weights)[:, 0].reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1)
    torch.testing.assert_close(gradient_of(candidate), expected)


def test_one_logit_and_a_sigmoid(tmp_path, net):
    for name, ending in (("logit", nn.Identity()), ("sigmoid", nn.Sigmoid())):
        one = nn.Sequential(tiny.tiny_net(labels=1), ending).eval()
        tiny.save_onnx_old(one, tmp_path / f"{name}.onnx")
        candidate, logits = tiny.load(tmp_path / f"{name}.onnx", IMAGES, task="binary")
        with torch.no_grad():
            torch.testing.assert_close(logits[:, 1:] - logits[:, :1], one[0](IMAGES.shares()), rtol=1e-4, atol=1e-5)
        assert candidate.gradient(IMAGES.shares(), ZEROS, ZEROS, lambda x, *_: x[:, 1] - x[:, 0])[2].any()


def test_one_score_an_image_without_an_axis_of_its_own(tmp_path):
    one = tiny.tiny_net(labels=1)
    tiny.save_onnx_old(nn.Sequential(one, nn.Flatten(0)).eval(), tmp_path / "net.onnx")
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES, task="binary")
    wanted = IMAGES.shares().requires_grad_()
    scores = one(wanted)[:, 0]
    torch.testing.assert_close(logits[:, 1], scores.detach(), rtol=1e-4, atol=1e-5)
    gradient = candidate.gradient(IMAGES.shares(), ZEROS, ZEROS, lambda x, *_: x[:, 1])[2]
    torch.testing.assert_close(gradient, torch.autograd.grad(scores.sum(), wanted)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", ["n", 1, 4])
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(TensorProto.FLOAT, 1e-5), (TensorProto.DOUBLE, 1e-5), (TensorProto.FLOAT16, 2e-3), (TensorProto.UINT8, 1e-4)],
)
def test_the_gradient_of_each_type_of_input(kind, tolerance, batch, tmp_path):
    weights = drawn(tiny.HEIGHT * tiny.WIDTH, 2)
    shape = (batch, 1, tiny.HEIGHT, tiny.WIDTH)
    tiny.save_linear_onnx(tmp_path / "linear.onnx", weights, kind=kind, shape=shape)
    span = 255 if kind == TensorProto.UINT8 else 1
    candidate, _ = tiny.load(tmp_path / "linear.onnx", IMAGES, preprocess={"range": [0, span]})
    expected = span * torch.from_numpy(weights)[:, 0].reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1)
    torch.testing.assert_close(gradient_of(candidate), expected, rtol=tolerance, atol=tolerance)


def test_rows_of_numbers_as_scikit_learn_takes_them(tmp_path):
    weights = drawn(2, tiny.HEIGHT * tiny.WIDTH)
    nodes = [
        helper.make_node(
            "LinearClassifier", ["image"], ["label", "raw"], domain="ai.onnx.ml", classlabels_ints=[0, 1],
            coefficients=weights.flatten().tolist(), intercepts=[0.1, -0.2], post_transform="SOFTMAX",
        ),
        helper.make_node("Normalizer", ["raw"], ["scores"], domain="ai.onnx.ml", norm="L1"),
        helper.make_node("Cast", ["label"], ["output_label"], to=TensorProto.INT64),
    ]  # fmt: skip
    model = model_of(nodes, inputs=("n", tiny.HEIGHT * tiny.WIDTH), domains=["ai.onnx.ml"])
    model.graph.output.insert(0, helper.make_tensor_value_info("output_label", TensorProto.INT64, ["n"]))
    onnx.save(model, tmp_path / "logistic.onnx")
    candidate, logits = tiny.load(tmp_path / "logistic.onnx", IMAGES, output_name="scores")
    expected = (IMAGES.shares().flatten(1) @ torch.from_numpy(weights).T + torch.tensor([0.1, -0.2])).log_softmax(1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    rise = torch.from_numpy(weights[0] - weights[1]).reshape(1, 1, tiny.HEIGHT, tiny.WIDTH)
    gradient = candidate.gradient(IMAGES.shares(), ZEROS, ZEROS, lambda x, *_: x[:, 0] - x[:, 1])[2]
    torch.testing.assert_close(gradient, rise.expand(7, -1, -1, -1), rtol=1e-3, atol=1e-4)
    assert any("rows of numbers: each image is given as a row, channels first" in n for n in candidate.info.notes)
    nhwc, _ = tiny.load(tmp_path / "logistic.onnx", IMAGES, output_name="scores", preprocess={"layout": "NHWC"})
    assert any("given as a row, channels last" in note for note in nhwc.info.notes)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_grey_images_without_an_axis_of_channels(layout, tmp_path):
    weights = drawn(tiny.HEIGHT * tiny.WIDTH, 2)
    tiny.save_linear_onnx(tmp_path / "net.onnx", weights, shape=("n", tiny.HEIGHT, tiny.WIDTH))
    options = {"preprocess": {"layout": layout}}
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES, **options)
    torch.testing.assert_close(logits, IMAGES.shares().flatten(1) @ torch.from_numpy(weights), rtol=1e-4, atol=1e-5)
    expected = torch.from_numpy(weights)[:, 0].reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1)
    torch.testing.assert_close(gradient_of(candidate), expected, rtol=1e-4, atol=1e-5)
    assert "it takes grey images without a channel axis, and is given them so" in candidate.info.notes
    with pytest.raises(CandidateError, match=r"3×6×5 .*; it takes grey images \(its input has three axes, which are"):
        tiny.load(tmp_path / "net.onnx", tiny.pictures(7, channels=3), **options)
    with pytest.raises(CandidateError, match=r"1×9×5 .*; set model\.preprocess\.resize: \[6, 5\]"):
        tiny.load(tmp_path / "net.onnx", tiny.pictures(7, height=9), **options)


@pytest.mark.parametrize(
    ("shape", "layout", "channels"),
    [((6, 5), "NCHW", 1), ((6, 5), "NHWC", 1), ((6, 5, 1), "NHWC", 1), ((3, 6, 5), "NCHW", 3), ((6, 5, 3), "NHWC", 3)],
)
def test_an_image_without_an_axis_of_the_batch(shape, layout, channels, tmp_path):
    nodes = [
        helper.make_node("Reshape", ["image", "row"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    held = [("row", np.int64([1, -1])), ("w", drawn(30 * channels, 2))]
    onnx.save(model_of(nodes, inputs=shape, held=held), tmp_path / "net.onnx")
    sizes = "×".join(map(str, shape))
    with pytest.raises(CandidateError, match=rf"^net\.onnx takes one image of {sizes}, without a batch axis: export"):
        tiny.load(tmp_path / "net.onnx", tiny.pictures(7, channels=channels), preprocess={"layout": layout})


def test_one_grey_image_at_a_time_needs_no_other_axis(tmp_path):
    tiny.save_linear_onnx(tmp_path / "net.onnx", drawn(30, 2), shape=(1, 6, 5))
    tiny.load(tmp_path / "net.onnx", IMAGES)
    tiny.save_linear_onnx(tmp_path / "net.onnx", drawn(30, 2), shape=(1, 1, 6, 5))
    tiny.load(tmp_path / "net.onnx", IMAGES)


def test_a_logistic_regression_that_is_sure_is_attacked_by_its_margin(tmp_path):
    """As skl2onnx writes it: rows of coefficients that are each other's negatives, and a sigmoid of each score."""
    weights = drawn(tiny.HEIGHT * tiny.WIDTH, seed=2)
    node = helper.make_node(
        "LinearClassifier", ["image"], ["label", "probabilities"], domain="ai.onnx.ml", classlabels_ints=[0, 1],
        coefficients=[*-weights, *weights], intercepts=[-25.0, 25.0], post_transform="LOGISTIC",
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "logistic",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", weights.size])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert any("searches use the input of its last softmax" in note for note in candidate.info.notes)
    expected = -torch.from_numpy(weights).reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1) / 2
    torch.testing.assert_close(gradient_of(candidate), expected)


def test_trees_are_named_and_still_predict(tmp_path):
    tree = helper.make_node(
        "TreeEnsembleClassifier", ["image"], ["label", "scores"], domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[3, 0, 0], nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0, 0, 0, 0], class_nodeids=[1, 1, 2, 2], class_ids=[0, 1, 0, 1],
        class_weights=[0.9, 0.1, 0.2, 0.8], classlabels_int64s=[0, 1], post_transform="NONE",
    )  # fmt: skip
    model = model_of([tree], inputs=("n", tiny.HEIGHT * tiny.WIDTH), domains=["ai.onnx.ml"])
    model.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
    onnx.save(model, tmp_path / "trees.onnx")
    candidate, logits = tiny.load(tmp_path / "trees.onnx", IMAGES, output_name="scores")
    right = IMAGES.shares().flatten(1)[:, 3] > 0.5
    assert torch.equal(logits[:, 1] > logits[:, 0], right)
    refused_by(
        candidate,
        r"ai\.onnx\.ml\.TreeEnsembleClassifier \(opset 1\) has no differentiable form here; use an attack that only "
        r"asks \(square, nes, label_only\) or transfer$",
    )


def test_preprocessing_inside_the_graph(tmp_path, net):
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "full"], ["share"]),
        helper.make_node("Resize", ["share", "", "", "sizes"], ["large"], mode="linear", antialias=1),
        helper.make_node("Sub", ["large", "mean"], ["centred"]),
        helper.make_node("Flatten", ["centred"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    held = (
        ("full", np.float32(255)),
        ("sizes", np.array([7, 1, 4, 3])),
        ("mean", np.float32(0.5)),
        ("w", drawn(12, 2)),
    )
    model = model_of(nodes, inputs=(7, 1, tiny.HEIGHT, tiny.WIDTH), kind=TensorProto.UINT8, held=held, opset=19)
    onnx.save(model, tmp_path / "whole.onnx")
    candidate, logits = tiny.load(tmp_path / "whole.onnx", IMAGES, preprocess={"range": [0, 255]})
    assert candidate.network.no_gradients is None
    torch.testing.assert_close(candidate.search_logits(IMAGES.shares()), logits, rtol=1e-4, atol=1e-5)
    assert gradient_of(candidate).any()
