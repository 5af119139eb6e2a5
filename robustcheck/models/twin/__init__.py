"""The differentiable twin of an ONNX graph.

`graph` prepares the graph, `convert` makes torch of it with onnx2fx (`builder` is what operators need of both), and the
other files stand in for operators where onnx2fx's own way is not enough. Convolutions and products become `layers`,
which faster forms of a network are made of; `weight_only` computes the weights that quantisers leave; gradients pass
straight through `rounding` and `quantised` operators, and `rounded_values` tells whether a graph rounds; and what is
missing there, or differs from the standard, is mended: `standard` ones, `sizes`, `resize`, `attention`, ONNX Runtime's
`contrib`, and `linear_models`. Each is held to the conformance cases of the onnx package. A twin takes images as the
graph has them `held`, or, for a second look at it, as they are and in double precision. Nothing outside this folder
knows onnx2fx: another converter can take its place.
"""

from robustcheck.models.twin.convert import (
    ROUNDED_OPERATORS,
    NoTwinError,
    Twin,
    TwinFailsError,
    converted,
    make_twin,
    telling,
)
from robustcheck.models.twin.held import in_double

__all__ = [
    "ROUNDED_OPERATORS",
    "NoTwinError",
    "Twin",
    "TwinFailsError",
    "converted",
    "in_double",
    "make_twin",
    "telling",
]
