"""ONNX candidates: what ONNX Runtime says counts, and a twin of the graph gives its gradients, or it is refused."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from torch import nn

from robustcheck.errors import AccessError, CandidateError
from robustcheck.models import agreement
from robustcheck.models.twin import convert

IMAGES = tiny.pictures(7)
ZEROS = torch.zeros(7, dtype=torch.int64)


def _first_score(logits, *_others):
    return logits[:, 0]


def _gradient(candidate, images=None):
    return candidate.gradient(IMAGES.shares() if images is None else images, ZEROS, ZEROS, _first_score)[2]


def _refused(candidate, match):
    with pytest.raises(AccessError, match=match):
        _gradient(candidate)


def _model(nodes, *, inputs=("n", 1, tiny.HEIGHT, tiny.WIDTH), kind=TensorProto.FLOAT, held=(), opset=17, domains=()):
    graph = helper.make_graph(
        nodes,
        "by-hand",
        [helper.make_tensor_value_info("image", kind, inputs)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["m", 2])],
        [numpy_helper.from_array(value, name) for name, value in held],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- what people export ----------------------------------------------------------------------------------------------


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
        ("w1", _random(4, 3, 3, 3)),
        ("b1", _random(4, seed=1)),
        ("zero", np.float32(0)),
        ("six", np.float32(6)),
        ("w2", _random(4, 4, 2, 2, seed=2)),
        ("w3", 0.1 * _random(4, 2, seed=3)),
        ("b3", _random(2, seed=4)),
    )
    return _model(nodes, inputs=("n", tiny.HEIGHT, tiny.WIDTH, 3), held=held, opset=opset)


def test_a_network_of_tf2onnx(tmp_path):
    onnx.save(_as_tf2onnx(), tmp_path / "keras.onnx")
    samples = tiny.pictures(7, channels=3)
    candidate, logits = tiny.load(tmp_path / "keras.onnx", samples, preprocess={"layout": "NHWC"})
    assert candidate.info.output == "probabilities (told from 7 samples)"
    images = samples.shares()
    gradient = _gradient(candidate, images)
    assert gradient.shape == images.shape
    step = 1e-2 * gradient.sign()
    up, down = (candidate.logits(images + sign * step) for sign in (1, -1))
    assert ((up - down)[:, 0] > (up - down)[:, 1]).all()
    assert any("searches look at what goes into its last softmax" in note for note in candidate.info.notes)
    torch.testing.assert_close(candidate.search_logits(images).softmax(1), logits.softmax(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("opset", range(9, 13))
def test_softmax_of_old_opsets_is_left_off_too(opset, tmp_path):
    held = (("w", _random(tiny.HEIGHT * tiny.WIDTH, 2)),)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    onnx.save(_model(nodes, held=held, opset=opset), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    expected = torch.from_numpy(held[0][1])[:, 0].reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1)
    torch.testing.assert_close(_gradient(candidate), expected)


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
        ("w1", _random(4, 1, 3, 3)),
        ("b1", _random(4, seed=1)),
        ("w2", _random(2, 4, seed=2)),
        ("b2", _random(2, seed=3)),
        *([("axes", np.array([2, 3]))] if opset >= 13 else []),
    ]
    model = _model(nodes, held=held, opset=opset)
    model.ir_version = 8 if opset < 19 else 10
    onnx.save(model, tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    values = {name: torch.from_numpy(value) for name, value in held}
    wanted = IMAGES.shares().requires_grad_()
    features = nn.functional.conv2d(wanted, values["w1"], values["b1"], padding=1).relu().mean(dim=(2, 3))
    scores = nn.functional.linear(features, values["w2"], values["b2"])
    torch.testing.assert_close(_gradient(candidate), torch.autograd.grad(scores[:, 0].sum(), wanted)[0])


def test_the_only_output_of_floats_is_taken(tmp_path):
    weights = _random(tiny.HEIGHT * tiny.WIDTH, 2)
    model = tiny.save_linear_onnx(tmp_path / "net.onnx", weights)
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
    model.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
    onnx.save(model, tmp_path / "net.onnx")
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES)
    torch.testing.assert_close(logits, IMAGES.shares().flatten(1) @ torch.from_numpy(weights), rtol=1e-4, atol=1e-5)
    assert "of its outputs, scores alone can have the scores" in candidate.info.notes


def test_one_logit_and_a_sigmoid(tmp_path, net):
    for name, ending in (("logit", nn.Identity()), ("sigmoid", nn.Sigmoid())):
        one = nn.Sequential(tiny.tiny_net(labels=1), ending).eval()
        tiny.save_onnx_old(one, tmp_path / f"{name}.onnx")
        candidate, logits = tiny.load(tmp_path / f"{name}.onnx", IMAGES, task="binary")
        with torch.no_grad():
            torch.testing.assert_close(logits[:, 1:] - logits[:, :1], one[0](IMAGES.shares()), rtol=1e-4, atol=1e-5)
        assert candidate.gradient(IMAGES.shares(), ZEROS, ZEROS, lambda x, *_: x[:, 1] - x[:, 0])[2].any()


@pytest.mark.parametrize("batch", ["n", 1, 4])
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(TensorProto.FLOAT, 1e-5), (TensorProto.DOUBLE, 1e-5), (TensorProto.FLOAT16, 2e-3), (TensorProto.UINT8, 1e-4)],
)
def test_the_gradient_of_each_type_of_input(kind, tolerance, batch, tmp_path):
    weights = _random(tiny.HEIGHT * tiny.WIDTH, 2)
    shape = (batch, 1, tiny.HEIGHT, tiny.WIDTH)
    tiny.save_linear_onnx(tmp_path / "linear.onnx", weights, kind=kind, shape=shape)
    span = 255 if kind == TensorProto.UINT8 else 1
    candidate, _ = tiny.load(tmp_path / "linear.onnx", IMAGES, preprocess={"range": [0, span]})
    expected = span * torch.from_numpy(weights)[:, 0].reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1)
    torch.testing.assert_close(_gradient(candidate), expected, rtol=tolerance, atol=tolerance)


def test_rows_of_numbers_as_scikit_learn_takes_them(tmp_path):
    weights = _random(2, tiny.HEIGHT * tiny.WIDTH)
    nodes = [
        helper.make_node(
            "LinearClassifier", ["image"], ["label", "raw"], domain="ai.onnx.ml", classlabels_ints=[0, 1],
            coefficients=weights.flatten().tolist(), intercepts=[0.1, -0.2], post_transform="SOFTMAX",
        ),
        helper.make_node("Normalizer", ["raw"], ["scores"], domain="ai.onnx.ml", norm="L1"),
        helper.make_node("Cast", ["label"], ["output_label"], to=TensorProto.INT64),
    ]  # fmt: skip
    model = _model(nodes, inputs=("n", tiny.HEIGHT * tiny.WIDTH), domains=["ai.onnx.ml"])
    model.graph.output.insert(0, helper.make_tensor_value_info("output_label", TensorProto.INT64, ["n"]))
    onnx.save(model, tmp_path / "logistic.onnx")
    candidate, logits = tiny.load(tmp_path / "logistic.onnx", IMAGES, output_name="scores")
    expected = (IMAGES.shares().flatten(1) @ torch.from_numpy(weights).T + torch.tensor([0.1, -0.2])).log_softmax(1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    rise = torch.from_numpy(weights[0] - weights[1]).reshape(1, 1, tiny.HEIGHT, tiny.WIDTH)
    gradient = candidate.gradient(IMAGES.shares(), ZEROS, ZEROS, lambda x, *_: x[:, 0] - x[:, 1])[2]
    torch.testing.assert_close(gradient, rise.expand(7, -1, -1, -1), rtol=1e-3, atol=1e-4)
    assert any("rows of numbers" in note for note in candidate.info.notes)


def test_trees_are_named_and_still_predict(tmp_path):
    tree = helper.make_node(
        "TreeEnsembleClassifier", ["image"], ["label", "scores"], domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[3, 0, 0], nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0, 0, 0, 0], class_nodeids=[1, 1, 2, 2], class_ids=[0, 1, 0, 1],
        class_weights=[0.9, 0.1, 0.2, 0.8], classlabels_int64s=[0, 1], post_transform="NONE",
    )  # fmt: skip
    model = _model([tree], inputs=("n", tiny.HEIGHT * tiny.WIDTH), domains=["ai.onnx.ml"])
    model.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
    onnx.save(model, tmp_path / "trees.onnx")
    candidate, logits = tiny.load(tmp_path / "trees.onnx", IMAGES, output_name="scores")
    right = IMAGES.shares().flatten(1)[:, 3] > 0.5
    assert torch.equal(logits[:, 1] > logits[:, 0], right)
    _refused(candidate, r"ai\.onnx\.ml\.TreeEnsembleClassifier \(opset 1\) has no differentiable form.*\(square\)")


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
        ("w", _random(12, 2)),
    )
    model = _model(nodes, inputs=(7, 1, tiny.HEIGHT, tiny.WIDTH), kind=TensorProto.UINT8, held=held, opset=19)
    onnx.save(model, tmp_path / "whole.onnx")
    candidate, logits = tiny.load(tmp_path / "whole.onnx", IMAGES, preprocess={"range": [0, 255]})
    assert candidate.network.no_gradients is None
    torch.testing.assert_close(candidate.search_logits(IMAGES.shares()), logits, rtol=1e-4, atol=1e-5)
    assert _gradient(candidate).any()


# --- quantised graphs ------------------------------------------------------------------------------------------------


class _Calibration(quantization.CalibrationDataReader):
    def __init__(self):
        self._images = iter([{"image": image[None].numpy()} for image in IMAGES.shares()])

    def get_next(self):
        return next(self._images, None)


@pytest.fixture(scope="module")
def whole_numbers(tmp_path_factory, net):
    """The tiny network, quantised in each of ONNX Runtime's ways."""
    folder = tmp_path_factory.mktemp("quantised")
    tiny.save_onnx_old(net, folder / "float.onnx")
    formats = quantization.QuantFormat
    kinds = quantization.QuantType
    static = partial(quantization.quantize_static, folder / "float.onnx")
    static(folder / "qdq.onnx", _Calibration(), quant_format=formats.QDQ)
    static(folder / "qdq-channels.onnx", _Calibration(), quant_format=formats.QDQ, per_channel=True)
    static(folder / "operators.onnx", _Calibration(), quant_format=formats.QOperator, activation_type=kinds.QUInt8)
    quantization.quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", weight_type=kinds.QUInt8)
    return folder


@pytest.mark.parametrize("name", ["qdq", "qdq-channels", "operators", "dynamic"])
def test_quantised_graphs_are_followed_through_their_rounding(name, whole_numbers, net):
    candidate, _ = tiny.load(whole_numbers / f"{name}.onnx", IMAGES)
    assert any("straight through its rounding" in note for note in candidate.info.notes)
    gradient = _gradient(candidate)
    wanted = IMAGES.shares().requires_grad_()
    (expected,) = torch.autograd.grad(net(wanted)[:, 0].sum(), wanted)
    cosine = nn.functional.cosine_similarity(gradient.flatten(1), expected.flatten(1))
    assert (cosine > 0.7).all()
    assert cosine.mean() > 0.8


def test_ranges_of_a_batch_are_ranges_of_an_image(whole_numbers):
    candidate, logits = tiny.load(whole_numbers / "dynamic.onnx", IMAGES)
    assert any("one by one" in note for note in candidate.info.notes)
    torch.testing.assert_close(candidate.search_logits(IMAGES.shares()), logits, rtol=1e-3, atol=1e-3)


# --- twins that are refused ------------------------------------------------------------------------------------------


def _with_twin(monkeypatch, change):
    """Every twin is changed before it is compared."""
    make = convert.converted

    def changed(model):
        module = make(model)
        change(module)
        module.recompile()
        return module

    monkeypatch.setattr(convert, "converted", changed)


def test_a_twin_of_other_scores_is_refused(tmp_path, net, monkeypatch):
    def shift(module):
        output = next(node for node in module.graph.nodes if node.op == "output")
        with module.graph.inserting_before(output):
            output.replace_input_with(output.args[0], module.graph.call_function(torch.add, (output.args[0], 0.01)))

    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    _with_twin(monkeypatch, shift)
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    _refused(candidate, r"its score [12] of 2 differs by 0\.01 on the samples \(at most 0\.0\d+ is allowed\)")
    assert candidate.logits(IMAGES.shares()).isfinite().all()


@pytest.mark.parametrize("part", [1.5, 0.0])
def test_a_twin_of_another_gradient_is_refused(part, tmp_path, net, monkeypatch):
    def scale(module):
        image = next(node for node in module.graph.nodes if node.op == "placeholder")
        users = list(image.users)
        with module.graph.inserting_after(image):
            same = module.graph.call_function(lambda x: x * part + (x * (1 - part)).detach(), (image,))
        for user in users:
            user.replace_input_with(image, same)

    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    _with_twin(monkeypatch, scale)
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    _refused(candidate, r"its gradient differs from differences of ONNX Runtime's output by \d+% in the mean")


def test_a_twin_that_fails_is_refused_and_prints_nothing(tmp_path, net, monkeypatch, capfd):
    def fail(module):
        output = next(node for node in module.graph.nodes if node.op == "output")
        with module.graph.inserting_before(output):
            output.replace_input_with(
                output.args[0], module.graph.call_function(torch.reshape, (output.args[0], (5, 7)))
            )

    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    _with_twin(monkeypatch, fail)
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    _refused(candidate, r"its differentiable twin is wrong, it fails: .*\[5, 7\]")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_twin_is_compared_as_searches_ask_it(tmp_path):
    """Whole numbers are kept as floats where a gradient is asked for, and their quotient is no whole number then."""
    held = (("scale", np.float32(255)), ("seven", np.array(7)), ("w", _random(tiny.HEIGHT * tiny.WIDTH, 2)))
    nodes = [
        helper.make_node("Mul", ["image", "scale"], ["levels"]),
        helper.make_node("Cast", ["levels"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Div", ["whole", "seven"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["again"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["again"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    onnx.save(_model(nodes, held=held), tmp_path / "net.onnx")
    _refused(tiny.load(tmp_path / "net.onnx", IMAGES)[0], r"its score [12] of 2 differs by .* on the samples")


def test_a_twin_without_any_gradient_is_refused_and_the_rest_goes_on(tmp_path):
    nodes = [
        helper.make_node("Greater", ["image", "half"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    held = (("half", np.float32(0.5)), ("w", _random(tiny.HEIGHT * tiny.WIDTH, 2)))
    onnx.save(_model(nodes, held=held), tmp_path / "net.onnx")
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert logits.isfinite().all()
    _refused(candidate, r"its differentiable twin is wrong, it fails: .*does not require grad")


def test_images_that_are_mixed_show_whatever_shape_comes_first(tmp_path):
    """Freed of its batch of one, this graph takes the mean of all images; the first shape has one image alone."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Relu", ["centred"], ["bright"]),
        helper.make_node("GlobalAveragePool", ["bright"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    onnx.save(_model(nodes, inputs=(1, 1, "h", "w"), held=(("w", _random(1, 2)),)), tmp_path / "net.onnx")
    random = np.random.default_rng(0)
    shapes = [(6, 5), *[(8, 8)] * 6]
    samples = tiny.Pictures([random.integers(0, 256, (1, *shape), dtype=np.uint8) for shape in shapes])
    candidate, logits = tiny.load(tmp_path / "net.onnx", samples)
    large = torch.from_numpy(np.stack([samples.image(index) for index in range(1, 7)])).float() / 255
    torch.testing.assert_close(candidate.search_logits(large), logits[1:], rtol=1e-4, atol=1e-6)
    assert any("it takes batches of 1, as the graph does" in note for note in candidate.info.notes)


def _straightened(function, slope):
    """A function whose gradient is another's."""
    return lambda x: slope(x) + (function(x) - slope(x)).detach()


def test_where_probabilities_are_at_an_end_their_logarithms_are_compared():
    weights = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([60.0, 0.0, 0.0])

    def ask(x):
        return (x.flatten(1) @ weights + shift).softmax(dim=1)

    images = [torch.rand(4, 1, 3, 4)]
    assert agreement.compare(ask, ask, images, agreement.FLOAT) == agreement.Agreement(wrong=None)
    other = _straightened(ask, lambda x: (-(x.flatten(1) @ weights) + shift).softmax(dim=1))
    assert "its gradient differs" in agreement.compare(ask, other, images, agreement.FLOAT).wrong


def test_scores_that_do_not_move_tell_nothing():
    found = agreement.compare(_constant, _constant, [torch.rand(4, 1, 3, 4)], agreement.FLOAT)
    assert found == agreement.Agreement(wrong=None, told=False)


def _constant(x):
    return torch.tensor([[3.0, 1.0]]) + 0 * x.flatten(1)[:, :2]


def test_each_image_is_judged_for_itself():
    """The steepest image does not hide three whose gradients point the wrong way."""
    weights = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    steep = torch.tensor([1.0, 0.02, 0.02, 0.02]).view(-1, 1)
    turned = torch.tensor([1.0, -1.0, -1.0, -1.0]).view(-1, 1)

    def ask(x):
        return steep[: len(x)] * (x.flatten(1) @ weights) * 100

    other = _straightened(ask, lambda x: turned[: len(x)] * ask(x))
    assert "its gradient differs" in agreement.compare(ask, other, [torch.rand(4, 1, 3, 4)], agreement.FLOAT).wrong


@pytest.mark.parametrize(("factor", "words"), [(torch.nan, "not finite"), (0.0, "is zero"), (-1.0, "fall along")])
def test_gradients_through_rounding_are_there_and_lead_upwards(factor, words):
    weights = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))

    def ask(x):
        return ((x.flatten(1) @ weights) * 20).round() / 20

    def followed(by):
        return _straightened(ask, lambda x: by * (x.flatten(1) @ weights))

    images = [torch.rand(4, 1, 3, 4)]
    assert agreement.compare(ask, followed(1.0), images, agreement.ROUNDED).wrong is None
    wrong = followed(factor) if factor == factor else lambda x: ask(x) + _NoSlope.apply(x)
    assert words in agreement.compare(ask, wrong, images, agreement.ROUNDED).wrong


class _NoSlope(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x):
        return x.new_zeros(len(x), 2)

    @staticmethod
    def backward(_ctx, gradient):
        return gradient.new_full((len(gradient), 1, 3, 4), torch.nan)


def test_an_infinite_score_hides_no_other():
    def ask(x):
        return torch.cat([x.flatten(1)[:, :2], x.new_full((len(x), 1), torch.inf)], dim=1)

    assert agreement.compare(ask, lambda x: 50 * ask(x), [torch.rand(4, 1, 3, 4)], agreement.FLOAT).wrong


def test_rounding_that_the_scores_do_not_depend_on_loosens_nothing(tmp_path):
    model = tiny.save_linear_onnx(tmp_path / "net.onnx", _random(tiny.HEIGHT * tiny.WIDTH, 2))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "step"))
    model.graph.node.append(helper.make_node("QuantizeLinear", ["image", "step"], ["small"]))
    model.graph.output.append(helper.make_tensor_value_info("small", TensorProto.UINT8, None))
    model.graph.output[-1].type.tensor_type.shape.dim.add().dim_param = "any"
    model.graph.output[-1].type.tensor_type.shape.ClearField("dim")
    for _ in range(4):
        model.graph.output[-1].type.tensor_type.shape.dim.add()
    onnx.save(model, tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert not any("rounding" in note for note in candidate.info.notes)


def test_weights_that_are_inputs_too_as_in_old_files(tmp_path):
    model = tiny.save_linear_onnx(tmp_path / "net.onnx", _random(tiny.HEIGHT * tiny.WIDTH, 2))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([2.0]), "unused"))
    model.graph.node.append(helper.make_node("Mul", ["scores", "unused"], ["twice"]))
    model.graph.output.append(helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["n", 2]))
    shapes = {"w": [tiny.HEIGHT * tiny.WIDTH, 2], "unused": [1]}
    model.graph.input.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    onnx.save(model, tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES, output_name="scores")
    assert _gradient(candidate).any()


def test_a_network_that_squeezes_one_image_away(tmp_path):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["pooled"]),
        helper.make_node("Squeeze", ["pooled"], ["scores"]),
    ]
    model = _model(nodes, held=(("w", _random(2, 1, 3, 3)),))
    onnx.save(model, tmp_path / "net.onnx")
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert torch.allclose(candidate.logits(IMAGES.shares()[:1]), logits[:1], atol=1e-6)
    assert _gradient(candidate).any()


def test_a_real_network_of_whole_numbers(tmp_path):
    """Preprocessing inside the graph, black borders, and rounding of what is given."""

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.net = nn.Sequential(
                    nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
                    nn.Flatten(), nn.Linear(8 * 12 * 12, 2),
                )  # fmt: skip

        def forward(self, image):
            return self.net(image.float() / 255 * 4 - 2)

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 1, 24, 24), dtype=np.uint8)
    images[:, :, :4], images[:, :, -4:] = 0, 255
    axes = {"image": {0: "batch"}, "scores": {0: "batch"}}
    tiny.quietly(
        torch.onnx.export, Whole().eval(), (torch.from_numpy(images[:2]),), str(tmp_path / "net.onnx"), dynamo=False,
        input_names=["image"], output_names=["scores"], dynamic_axes=axes,
    )  # fmt: skip
    samples = tiny.Pictures(list(images))
    candidate, _ = tiny.load(tmp_path / "net.onnx", samples, preprocess={"range": [0, 255]})
    assert candidate.network.no_gradients is None
    with pytest.raises(CandidateError, match=r"takes whole numbers from 0 to 255.*range: \[0, 255\]"):
        tiny.load(tmp_path / "net.onnx", samples)


def test_whole_numbers_are_resized_to_whole_numbers(tmp_path):
    nodes = [
        helper.make_node("Resize", ["image", "", "", "sizes"], ["large"], mode="linear"),
        helper.make_node("Cast", ["large"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    held = (("sizes", np.array([7, 1, 9, 8])), ("w", _random(72, 2)))
    model = _model(nodes, inputs=(7, 1, tiny.HEIGHT, tiny.WIDTH), kind=TensorProto.UINT8, held=held, opset=19)
    onnx.save(model, tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES, preprocess={"range": [0, 255]})
    assert _gradient(candidate).any()


def test_names_in_a_file_are_no_code(tmp_path, marker):
    """The converter writes Python source, and the names of a graph's values would stand in it."""
    evil = f"x); __import__('os').mkdir('{marker}') #"
    held = (("w", _random(tiny.HEIGHT * tiny.WIDTH, 2)),)
    nodes = [
        helper.make_node("Flatten", ["image"], [evil], name=evil),
        helper.make_node("MatMul", [evil, "w"], ["scores"], name="\n\nimport os"),
    ]
    onnx.save(_model(nodes, held=held), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert _gradient(candidate).any()
    assert not marker.exists()


def test_converting_leaves_no_trace(tmp_path, net):
    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(weights.requires_grad for weights in candidate.network.module.parameters())
    assert list(tmp_path.iterdir()) == [tmp_path / "net.onnx"]


def test_other_formats_import_no_converter(tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tiny_models as t; from pathlib import Path; "
        "t.load(Path(sys.argv[2])); print('onnx2fx' in sys.modules)"
    )
    import subprocess

    folder = str(tmp_path / "net.safetensors")
    here = __file__.rpartition("/")[0]
    answer = subprocess.run([sys.executable, "-c", code, here, folder], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
