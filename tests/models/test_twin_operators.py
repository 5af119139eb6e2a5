"""The twin's operators: the conformance cases of the onnx package, and gradients through rounding."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tiny_models as tiny
import torch
from graphs import agrees_with_runtime, drawn, model_of, one_node
from onnx import TensorProto, helper, numpy_helper

from benchmarks.onnx_conformance import OPERATORS, cases, disagreement
from robustcheck.models.twin import converted
from robustcheck.models.twin.graph import take_apart
from robustcheck.models.twin.quantised import _quantise, _quantise_dynamically
from robustcheck.models.twin.rounding import _cast_to, straight_through
from robustcheck.models.twin.sizes import _counted

WITHOUT_FLOATS = {"And", "Equal"}  # operators whose cases are left out


@pytest.fixture(scope="module")
def conformance():
    """All cases. The package makes them anew, which takes seconds: only the process that has these tests needs them."""
    return list(cases())


def test_there_are_as_many_cases_as_there_were(conformance):
    assert len(conformance) >= 530
    counts = Counter(case.operator for case in conformance)
    assert counts["Resize"] >= 30
    assert counts["Attention"] >= 60
    assert counts.keys() == set(OPERATORS) - WITHOUT_FLOATS


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - WITHOUT_FLOATS))
@pytest.mark.filterwarnings("ignore:The use of `x.T`")
def test_an_operator_is_the_standards(operator, conformance):
    mine = [case for case in conformance if case.operator == operator]
    assert mine
    assert [f"{case.name}: {reason}" for case in mine if (reason := disagreement(case))] == []


def test_a_wrong_answer_is_seen(conformance):
    case = next(case for case in conformance if case.name == "relu")
    wrong = replace(case, outputs=[case.outputs[0] + 0.01])
    assert disagreement(wrong) == "differs by 0.01"


def test_gradients_pass_through_rounding():
    values = torch.tensor([0.2, 0.7, 1.5], requires_grad=True)
    rounded = straight_through(values, values.round())
    assert rounded.tolist() == [0.0, 1.0, 2.0]
    assert torch.autograd.grad(rounded.sum(), values)[0].tolist() == [1.0, 1.0, 1.0]
    whole = _cast_to(values, torch.int64)
    assert whole.tolist() == [0.0, 0.0, 1.0]
    assert torch.autograd.grad(whole.sum(), values)[0].tolist() == [1.0, 1.0, 1.0]
    assert _cast_to(values.detach(), torch.int64).dtype == torch.int64


@pytest.mark.parametrize("name", ["Round", "Floor", "Ceil"])
def test_gradients_pass_through_an_operator_that_rounds(name):
    inputs = {"x": np.float32([-1.7, 0.2, 0.7, 3.4])}
    model = one_node(helper.make_node(name, ["x"], ["y"]), inputs, {"y": TensorProto.FLOAT})
    agrees_with_runtime(model, inputs, atol=0)
    values = torch.from_numpy(inputs["x"]).requires_grad_()
    assert torch.autograd.grad(converted(model).forward(values).sum(), values)[0].tolist() == [1.0] * 4


def test_what_floor_leaves_of_a_number_rises_as_the_number_does():
    inputs = {"x": np.float32([-1.7, 0.2, 0.7, 3.4])}
    model = one_node(helper.make_node("Floor", ["x"], ["f"]), inputs, {"y": TensorProto.FLOAT})
    model.graph.node.append(helper.make_node("Sub", ["x", "f"], ["y"]))
    agrees_with_runtime(model, inputs, atol=1e-7)
    values = torch.from_numpy(inputs["x"]).requires_grad_()
    assert torch.autograd.grad(converted(model).forward(values).sum(), values)[0].tolist() == [1.0] * 4


@pytest.mark.parametrize("scan", [False, True])
def test_a_loop_of_one_answer(scan):
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["before", "before"], ["after"]),
            helper.make_node("Identity", ["go"], ["on"]),
            *([helper.make_node("Identity", ["after"], ["seen"])] if scan else []),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
            *([helper.make_tensor_value_info("seen", TensorProto.FLOAT, None)] if scan else []),
        ],
    )
    inputs = {"x": drawn(3)}
    loop = helper.make_node("Loop", ["times", "", "x"], ["last", *(["all"] if scan else [])], body=body)
    model = one_node(loop, inputs, {"y": TensorProto.FLOAT})
    model.graph.node.append(helper.make_node("Neg", ["all" if scan else "last"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2), "times"))
    agrees_with_runtime(model, inputs, atol=1e-6)


@pytest.mark.parametrize("opset", [9, 17, 18])
def test_a_part_may_be_the_whole(opset):
    inputs, settings = {"x": drawn(2, 4)}, {"num_outputs": 1} if opset >= 18 else {}
    split = helper.make_node("Split", ["x"], ["all"], axis=1, **settings)
    model = one_node(split, inputs, {"y": TensorProto.FLOAT}, opset)
    model.graph.node.append(helper.make_node("Neg", ["all"], ["y"]))
    agrees_with_runtime(model, inputs, atol=0)


@pytest.mark.parametrize("opset", [9, 17])
def test_a_scan_may_have_one_output(opset):
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, [4])
    twice = helper.make_tensor_value_info("twice", TensorProto.FLOAT, [4])
    body = helper.make_graph([helper.make_node("Add", ["row", "row"], ["twice"])], "body", [row], [twice])
    inputs = {"x": drawn(2, 4)}
    scan = helper.make_node("Scan", ["x"], ["rows"], body=body, num_scan_inputs=1)
    model = one_node(scan, inputs, {"y": TensorProto.FLOAT}, opset)
    model.graph.node.append(helper.make_node("Neg", ["rows"], ["y"]))
    agrees_with_runtime(model, inputs, atol=0)


def test_what_is_true_or_false_has_no_gradient():
    values = torch.tensor([0.0, -0.25, 1.5], requires_grad=True)
    answer = _cast_to(values, torch.bool)
    assert answer.tolist() == [False, True, True]
    assert answer.dtype == torch.bool
    assert not answer.requires_grad


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


# --- operators that the onnx package has no cases of: ONNX Runtime itself is the standard ----------------------------


def _quantised(rng, *shape):
    return (
        rng.integers(20, 236, shape, dtype=np.uint8),
        np.float32(rng.uniform(0.01, 0.05)),
        np.uint8(rng.integers(100, 150)),
    )


MICROSOFT = {
    "QLinearAdd": ([(2, 3, 4, 4), (2, 3, 4, 4)], {}),
    "QLinearMul": ([(2, 3, 4, 4), (2, 3, 4, 4)], {}),
    "QLinearSigmoid": ([(2, 3, 4, 4)], {}),
    "QLinearLeakyRelu": ([(2, 3, 4, 4)], {"alpha": 0.2}),
    "QLinearSoftmax": ([(2, 5)], {"axis": 1, "opset": 13}),
    "QLinearGlobalAveragePool": ([(2, 3, 4, 4)], {}),
}


@pytest.mark.parametrize("name", MICROSOFT)
def test_a_quantised_operator_of_onnx_runtime(name):
    shapes, attributes = MICROSOFT[name]
    rng = np.random.default_rng(0)
    inputs = {}
    for place, shape in enumerate(shapes):
        inputs |= zip((f"x{place}", f"s{place}", f"z{place}"), _quantised(rng, *shape), strict=True)
    scale = np.float32(1 / 256) if name in ("QLinearSigmoid", "QLinearSoftmax") else np.float32(0.1)
    zero = np.uint8(0) if name in ("QLinearSigmoid", "QLinearSoftmax") else np.uint8(128)
    inputs |= {"ys": scale, "yz": zero}
    node = helper.make_node(name, list(inputs), ["y"], domain="com.microsoft", **attributes)
    model = one_node(node, inputs, {"y": TensorProto.UINT8})
    agrees_with_runtime(model, inputs, atol=1)  # halves are rounded by the last bit


def test_quantised_tensors_are_joined():
    rng = np.random.default_rng(0)
    inputs = {"x": _quantised(rng, 2, 3, 4)[0], "ys": np.float32(0.1), "yz": np.uint8(128)}
    inputs |= {"s": np.float32(0.03), "z": np.uint8(120), "x2": _quantised(rng, 2, 5, 4)[0]}
    inputs |= {"s2": np.float32(0.05), "z2": np.uint8(140)}
    names = ["ys", "yz", "x", "s", "z", "x2", "s2", "z2"]
    node = helper.make_node("QLinearConcat", names, ["y"], domain="com.microsoft", axis=1)
    agrees_with_runtime(one_node(node, inputs, {"y": TensorProto.UINT8}), inputs, atol=1)


@pytest.mark.parametrize("counted", [0, 1])
def test_quantised_means_of_windows(counted):
    inputs = dict(zip(("x", "xs", "xz"), _quantised(np.random.default_rng(0), 2, 3, 7, 6), strict=True))
    inputs |= {"ys": np.float32(0.02), "yz": np.uint8(128)}
    windows = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1], "count_include_pad": counted}
    node = helper.make_node("QLinearAveragePool", list(inputs), ["y"], domain="com.microsoft", **windows)
    model = one_node(node, inputs, {"y": TensorProto.UINT8})
    take_apart(model.graph)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "AveragePool", "QuantizeLinear"]
    agrees_with_runtime(model, inputs, atol=1)


@pytest.mark.parametrize("channels", [False, True])
def test_a_quantised_linear_layer(channels):
    rng = np.random.default_rng(0)
    inputs = dict(zip(("a", "as", "az"), _quantised(rng, 2, 6), strict=True))
    inputs |= {"b": rng.integers(-90, 90, (4, 6), dtype=np.int8)}
    inputs |= {"bs": rng.uniform(0.01, 0.02, 4).astype(np.float32) if channels else np.float32(0.02)}
    inputs |= {"bz": np.zeros(4, np.int8) if channels else np.int8(0), "c": rng.integers(-50, 50, 4, dtype=np.int32)}
    inputs |= {"ys": np.float32(0.1), "yz": np.uint8(120)}
    node = helper.make_node("QGemm", list(inputs), ["y"], domain="com.microsoft", transB=1, alpha=1.0)
    agrees_with_runtime(one_node(node, inputs, {"y": TensorProto.UINT8}), inputs, atol=1)


@pytest.mark.parametrize("after", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_a_linear_classifier(after):
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(3, 5)).astype(np.float32)}
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", classlabels_ints=[0, 1, 2],
        coefficients=rng.normal(size=15).tolist(), intercepts=[0.1, -0.2, 0.3], post_transform=after,
    )  # fmt: skip
    outputs = {"label": TensorProto.INT64, "y": TensorProto.FLOAT}
    agrees_with_runtime(one_node(node, inputs, outputs), inputs, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("Scaler", {"offset": [0.1, 0.2, 0.3], "scale": [2.0, 3.0, 4.0]}),
        ("Normalizer", {"norm": "L1"}),
        ("Normalizer", {"norm": "L2"}),
        ("Normalizer", {"norm": "MAX"}),
    ],
)
def test_preprocessing_of_scikit_learn(name, attributes):
    inputs = {"x": np.random.default_rng(0).uniform(0.1, 1, size=(4, 3)).astype(np.float32)}
    node = helper.make_node(name, ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    agrees_with_runtime(one_node(node, inputs, {"y": TensorProto.FLOAT}), inputs, atol=1e-5)


@pytest.mark.parametrize(
    "attributes", [{"output_shape": [12, 10]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}]
)
def test_a_transposed_convolution_of_a_wanted_size(attributes):
    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.normal(size=(2, 3, 6, 5)).astype(np.float32),
        "w": rng.normal(size=(3, 4, 3, 3)).astype(np.float32),
    }
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], kernel_shape=[3, 3], **attributes)
    agrees_with_runtime(one_node(node, inputs, {"y": TensorProto.FLOAT}), inputs, atol=1e-4)


def test_a_convolution_of_weights_that_are_computed_in_one_dimension():
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(2, 3, 9)).astype(np.float32), "w": rng.normal(size=(4, 3, 3)).astype(np.float32)}
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    agrees_with_runtime(one_node(node, inputs, {"y": TensorProto.FLOAT}), inputs, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_updates_at_places(reduction, depth):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 5, 3)).astype(np.float32)
    places = np.stack([rng.permutation(sizes)[:3] for sizes in values.shape[:depth]], axis=-1)
    places[0] -= values.shape[:depth]  # from the end
    if reduction == "add":
        places[2] = places[1]
    updates = rng.normal(size=(3, *values.shape[depth:])).astype(np.float32)
    inputs = {"x": values, "places": places, "updates": updates}
    node = helper.make_node("ScatterND", list(inputs), ["y"], reduction=reduction)
    agrees_with_runtime(one_node(node, inputs, {"y": TensorProto.FLOAT}, opset=18), inputs, atol=1e-5)


def test_updates_of_a_whole_tensor_are_one_step():
    """PyTorch's old exporter writes `x[:, :, 1:] += y` like that; a step a place would never end."""
    values = torch.zeros(200, 300)
    places = torch.cartesian_prod(torch.arange(200), torch.arange(300)).view(200, 300, 2)
    updates = torch.rand(200, 300, requires_grad=True)
    node = helper.make_node("ScatterND", ["x", "places", "updates"], ["y"])
    inputs = {"x": values.numpy(), "places": places.numpy(), "updates": updates.detach().numpy()}
    module = converted(one_node(node, inputs, {"y": TensorProto.FLOAT}))
    answer = module.forward(values, places, updates)
    assert torch.equal(answer, updates)
    steps, last = 1, answer.grad_fn
    while last.next_functions:
        steps, last = steps + 1, last.next_functions[-1][0]
    assert steps < 10


# --- sizes ------------------------------------------------------------------------------------------------------------

SIZES = (
    helper.make_node("Shape", ["image"], ["shape"]),
    helper.make_node("Gather", ["shape", "first"], ["batch"], axis=0),
    helper.make_node("Size", ["image"], ["all"]),
    helper.make_node("Unsqueeze", ["all", "first"], ["size"]),
    helper.make_node("Div", ["size", "batch"], ["each"]),
    helper.make_node("Concat", ["batch", "each"], ["whole"], axis=0),
    helper.make_node("Reshape", ["image", "whole"], ["rows"]),
    helper.make_node("Concat", ["batch", "one"], ["column"], axis=0),
    helper.make_node("ConstantOfShape", ["column"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.float32))),
    helper.make_node("Concat", ["rows", "ones"], ["longer"], axis=1),
    helper.make_node("Squeeze", ["batch", "first"], ["count"]),
    helper.make_node("Range", ["zero", "count", "step"], ["places"]),
    helper.make_node("Gather", ["longer", "places"], ["same"], axis=0),
    helper.make_node("MatMul", ["same", "weights"], ["scores"]),
)


def _of_sizes():
    pixels = tiny.HEIGHT * tiny.WIDTH
    held = [("first", [0]), ("one", [1]), ("zero", 0), ("step", 1)]
    whole = [(name, np.array(value, np.int64)) for name, value in held]
    return model_of(SIZES, held=[*whole, ("weights", drawn(pixels + 1, 2))])


def test_sizes_are_what_runtime_says():
    agrees_with_runtime(_of_sizes(), {"image": drawn(3, 1, tiny.HEIGHT, tiny.WIDTH)}, atol=1e-5)


def test_sizes_lie_where_the_image_does():
    """Whatever does not say where it is to lie lies elsewhere here, as it would with an image on a GPU."""
    module, image = converted(_of_sizes()), torch.from_numpy(drawn(3, 1, tiny.HEIGHT, tiny.WIDTH))
    expected = module(image)
    with torch.device("meta"):
        answer = module(image)
    assert torch.equal(answer, expected)


@pytest.mark.parametrize(
    ("start", "limit", "delta", "counted"),
    [(1, 8, 3, [1, 4, 7]), (5, 1, 1, []), (5, 1, -2, [5, 3]), (0.0, 1.0, 0.25, [0.0, 0.25, 0.5, 0.75])],
)
def test_a_range_ends_before_its_limit(start, limit, delta, counted):
    assert _counted(*map(torch.tensor, (start, limit, delta))).tolist() == counted


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (2, 3), (2, 3, 4, 5, 2)])
@pytest.mark.parametrize("given", [{}, {"epsilon": 0.1}])
def test_batch_norm_by_constants(shape, given):
    """Of maps it is a layer, which faster forms fold; of anything else it is not."""
    node = helper.make_node("BatchNormalization", ["image", "scale", "bias", "mean", "variance"], ["scores"], **given)
    held = [(name, drawn(3, seed=seed)) for seed, name in enumerate(("scale", "bias", "mean"))]
    held.append(("variance", np.abs(drawn(3, seed=4)) + 0.5))
    model = model_of([node], inputs=shape, held=held)
    agrees_with_runtime(model, {"image": drawn(*shape, seed=5)}, atol=1e-5)
    is_layer = any(isinstance(layer, torch.nn.BatchNorm2d) for layer in converted(model).modules())
    assert is_layer == (len(shape) == 4)
