"""Linear models of scikit-learn, as skl2onnx writes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from onnx import NodeProto
from torch import Tensor, fx

from robustcheck.models.twin.builder import (
    Builder,
    NotFollowedError,
    as_list,
    attribute,
    computes,
    function_for,
    input_of,
    whole_numbers,
)
from robustcheck.models.twin.layers import linear

_ML = "ai.onnx.ml"
_AFTER: dict[str, Callable[[Tensor], Tensor]] = {
    "NONE": lambda x: x,
    "LOGISTIC": torch.sigmoid,
    "SOFTMAX": lambda x: x.softmax(dim=1),
}


@computes("LinearClassifier", domain=_ML)
def _linear_classifier(builder: Builder, node: NodeProto) -> tuple[fx.Node, ...]:
    """A decision and scores, with the ending as a step of its own, so that searches can leave it off."""
    intercepts = attribute(node, "intercepts")
    after = attribute(node, "post_transform", "NONE")
    rows = len(intercepts or attribute(node, "classlabels_ints") or attribute(node, "classlabels_strings"))
    weight = torch.tensor(attribute(node, "coefficients")).reshape(rows, -1)
    if after not in _AFTER or rows == 1:
        raise NotFollowedError(f"with {rows} rows and {after}")
    bias = torch.tensor(intercepts) if intercepts else torch.zeros(rows)
    if after == "LOGISTIC" and rows == 2 and torch.equal(weight[0], -weight[1]) and bias[0] == -bias[1]:
        after, weight, bias = "SOFTMAX", weight / 2, bias / 2  # what the sigmoids of -z and z are
    scores = linear(builder, node, input_of(builder, node, 0), weight, bias)
    decision = builder.call_function(torch.argmax, args=(scores, 1))
    if after == "SOFTMAX":
        return decision, builder.call_function(torch.softmax, args=(scores, 1))
    return decision, builder.call_function(_AFTER[after], args=(scores,))


@computes("LinearRegressor", domain=_ML)
def _linear_regressor(builder: Builder, node: NodeProto) -> fx.Node:
    after = attribute(node, "post_transform", "NONE")
    if after not in _AFTER:
        raise NotFollowedError(f"with {after}")
    weight = torch.tensor(attribute(node, "coefficients")).reshape(attribute(node, "targets", 1), -1)
    intercepts = attribute(node, "intercepts")
    bias = torch.tensor(intercepts) if intercepts else None
    answer = linear(builder, node, input_of(builder, node, 0), weight, bias)
    return builder.call_function(_AFTER[after], args=(answer,))


def _extract(values: Tensor, places: list[int] | Tensor) -> Tensor:
    rows = values if values.ndim > 1 else values[None]
    return rows[..., as_list(places)]


@computes("ArrayFeatureExtractor", domain=_ML)
def _array_feature_extractor(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(_extract, args=(input_of(builder, node, 0), whole_numbers(builder, node, 1)))


@function_for("Normalizer", 1, domain=_ML, norm="MAX")
def _normalised(rows: Tensor, norm: str) -> Tensor:
    order = {"MAX": torch.inf, "L1": 1, "L2": 2}[norm]
    length: Tensor = torch.linalg.vector_norm(rows, order, dim=1, keepdim=True)
    return rows / length


@computes("Scaler", domain=_ML)
def _scaler(builder: Builder, node: NodeProto) -> fx.Node:
    offset, scale = (tuple(attribute(node, name, [default])) for name, default in (("offset", 0.0), ("scale", 1.0)))
    return builder.call_function(
        lambda x, offset, scale: (x - x.new_tensor(offset)) * x.new_tensor(scale),
        args=(input_of(builder, node, 0), offset, scale),
    )
