"""Operators of scikit-learn's models in the twin, held to ONNX Runtime itself."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import agrees_with_runtime, drawn, one_node
from onnx import TensorProto, helper, numpy_helper


@pytest.mark.parametrize("targets", [1, 2])
def test_a_linear_regressor(targets):
    inputs = {"x": drawn(3, 5)}
    node = helper.make_node(
        "LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", targets=targets,
        coefficients=drawn(targets * 5, seed=1).tolist(), intercepts=[0.1, -0.2][:targets],
    )  # fmt: skip
    agrees_with_runtime(one_node(node, inputs, {"y": TensorProto.FLOAT}), inputs, atol=1e-5)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_features_at_places(shape, held):
    inputs = {"x": drawn(*shape), "places": np.array([[3, 0, 3]])}
    node = helper.make_node("ArrayFeatureExtractor", ["x", "places"], ["y"], domain="ai.onnx.ml")
    model = one_node(node, inputs, {"y": TensorProto.FLOAT})
    if held:
        model.graph.initializer.append(numpy_helper.from_array(inputs.pop("places"), "places"))
        del model.graph.input[1]
    agrees_with_runtime(model, inputs, atol=0)
