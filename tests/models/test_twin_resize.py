"""Resize: every size, and every pixel that is the nearest, is ONNX Runtime's."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from graphs import agrees_with_runtime, one_node
from onnx import TensorProto, helper, numpy_helper

from robustcheck.models.twin.builder import NotFollowedError
from robustcheck.models.twin.resize import How, Resize

USUAL = (28, 32, 64, 96, 112, 128, 160, 192, 200, 224, 240, 256, 299, 300, 320, 350, 384, 400, 448, 480, 500, 512, 600)
USUAL += (640, 768, 800, 1000, 1024, 2048)
PAIRS = [(size, target) for size in USUAL for target in USUAL if size != target]
SMALL = [(size, target) for size, target in PAIRS if max(size, target) <= 320]
FRACTIONS = [(7, 4.2), (10, 6.7), (9, 1.5)]  # of scales, and what they make is no whole number of pixels
COORDINATES = ["half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners"]
COORDINATES += ["tf_half_pixel_for_nn", "tf_crop_and_resize"]
ROUNDED = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
CORNERS = np.float32([0, 0, 0, 0.1, 1, 1, 1, 0.85])  # of a crop


def _wrong(module, pairs, *, by_scales=False, opset=19, operator="Resize", near=0.0, **settings):
    """The pairs of sizes between which a twin (a `Resize`) resizes a line of pixels otherwise than ONNX Runtime."""
    names = ["x", "sizes"] if opset < 11 else ["x", "corners", "sizes"] if by_scales else ["x", "corners", "", "sizes"]
    kind = TensorProto.FLOAT if by_scales else TensorProto.INT64
    given = [("x", TensorProto.FLOAT, [1, 1, 1, None]), ("sizes", kind, [4])]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], **settings)],
        "one",
        [helper.make_tensor_value_info(*value) for value in given],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(CORNERS, "corners")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    corners, found = torch.from_numpy(CORNERS), []
    for size, target in pairs:
        line = np.random.default_rng(size).permutation(size).astype(np.float32).reshape(1, 1, 1, size) / size
        asked = np.float32([1, 1, 1, target / size]) if by_scales else np.array([1, 1, 1, target])
        (theirs,) = session.run(None, {"x": line, "sizes": asked})
        told = {"scales" if by_scales else "sizes": torch.from_numpy(asked)}
        ours = module(torch.from_numpy(line), corners, **told).numpy()
        if ours.shape != theirs.shape or np.abs(ours - theirs).max() > near:
            found.append((size, target, ours.shape, theirs.shape))
    return found


def _nearest(coordinates, nearest):
    settings = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    return Resize(How(mode="nearest", coordinates=coordinates, nearest=nearest)), settings


@pytest.mark.parametrize(
    ("coordinates", "nearest", "by_scales"),
    [
        ("asymmetric", "floor", False),  # as PyTorch's exporters write it
        ("asymmetric", "floor", True),
        ("half_pixel", "round_prefer_floor", False),
        ("tf_half_pixel_for_nn", "floor", False),  # as tf2onnx writes it
    ],
)
def test_the_nearest_pixels_are_the_runtimes_between_all_usual_sizes(coordinates, nearest, by_scales):
    module, settings = _nearest(coordinates, nearest)
    assert _wrong(module, PAIRS, by_scales=by_scales, **settings) == []


@pytest.mark.parametrize("nearest", ROUNDED)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_the_nearest_pixels_are_the_runtimes_in_every_mode(coordinates, nearest):
    module, settings = _nearest(coordinates, nearest)
    assert _wrong(module, [*PAIRS[::4], (320, 96), (96, 1)], **settings) == []
    assert _wrong(module, [*PAIRS[::40], *FRACTIONS], by_scales=True, **settings) == []


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_what_is_interpolated_is_the_runtimes(coordinates, mode, antialias):
    module = Resize(How(mode=mode, coordinates=coordinates, antialias=antialias))
    settings = {"mode": mode, "coordinate_transformation_mode": coordinates, "antialias": int(antialias)}
    assert _wrong(module, [*SMALL[::9], (96, 1)], near=1e-4, **settings) == []
    assert _wrong(module, [*SMALL[::15], *FRACTIONS], by_scales=True, near=1e-4, **settings) == []


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("operator", "opset"), [("Resize", 10), ("Upsample", 9)])
def test_operators_before_there_were_modes_of_coordinates(operator, opset, mode):
    module = Resize(How(mode=mode, coordinates="asymmetric", nearest="simple"))
    pairs = [*SMALL[::5], (96, 112), (299, 320), *(FRACTIONS if operator == "Resize" else [])]
    pairs = [(size, target) for size, target in pairs if size < target or operator == "Resize"]
    settings = {"operator": operator, "opset": opset, "mode": mode}
    assert _wrong(module, pairs, by_scales=True, near=0 if mode == "nearest" else 1e-6, **settings) == []


@pytest.mark.parametrize(("scale", "size"), [(32 / 28, 28), (224 / 96, 96), (1.45, 20)])
def test_an_upsample_whose_scales_are_attributes(scale, size):
    inputs = {"x": np.arange(float(size), dtype=np.float32).reshape(1, 1, 1, size)}
    node = helper.make_node("Upsample", ["x"], ["y"], mode="nearest", scales=[1.0, 1.0, 1.0, scale])
    agrees_with_runtime(one_node(node, inputs, {"y": TensorProto.FLOAT}, opset=7), inputs, atol=0)


@pytest.mark.parametrize(
    ("inputs", "held", "settings"),
    [
        (["x", "", "by"], np.float32([1, 1, 1, 28 / 96]), {"nearest_mode": "floor"}),
        (["x", "", "", "by"], np.array([1, 1, 1, 28]), {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}),
        (["x", "", "", "by"], np.array([9, 28]), {"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"}),
    ],
)
def test_a_graph_that_resizes(inputs, held, settings):
    """From the operator's attributes on."""
    image = {"x": np.random.default_rng(0).permutation(96).astype(np.float32).reshape(1, 1, 1, 96)}
    node = helper.make_node("Resize", inputs, ["y"], mode="nearest", **settings)
    model = one_node(node, image, {"y": TensorProto.FLOAT}, opset=18)
    model.graph.initializer.append(numpy_helper.from_array(held, "by"))
    agrees_with_runtime(model, image, atol=0)


def test_an_axis_that_keeps_its_size_is_not_cropped():
    """As in ONNX Runtime; the standard would."""
    inputs = {"x": np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)}
    node = helper.make_node(
        "Resize", ["x", "corners", "", "sizes"], ["y"],
        mode="nearest", coordinate_transformation_mode="tf_crop_and_resize",
    )  # fmt: skip
    model = one_node(node, inputs, {"y": TensorProto.FLOAT})
    corners = np.float32([0, 0, 0.5, 0.5, 1, 1, 1, 1])
    model.graph.initializer.append(numpy_helper.from_array(corners, "corners"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 3, 5]), "sizes"))
    agrees_with_runtime(model, inputs, atol=0)


def test_coordinates_that_nobody_knows_are_not_followed():
    module = Resize(How(mode="nearest", coordinates="as_you_like_it"))
    with pytest.raises(NotFollowedError, match="as_you_like_it"):
        module(torch.zeros(1, 1, 4, 4), sizes=torch.tensor([1, 1, 2, 2]))
