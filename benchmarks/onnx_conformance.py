"""How much of ONNX the twin computes as the standard says: the conformance cases of the onnx package.

`python -m benchmarks.onnx_conformance` runs the cases of the operators that image models use through the twin and
prints, an operator a line, how many agree, and of those that do not, why. What is compared are answers, asked
without gradients and, as searches ask, with them; gradients have no cases. Float8, 4-bit and text cases and training
modes are left out: no shipped image model has them on its way from the image to the scores. Where ONNX Runtime
answers a case otherwise than the standard, the twin has to answer as ONNX Runtime does, whose twin it is.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from robustcheck.models.onnx.runtime import onnxruntime

OPERATORS = """
Abs Add And Attention AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv
ConvTranspose DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand Flatten Floor Gather
GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool GridSample GroupNormalization HardSigmoid
HardSwish Identity InstanceNormalization LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization
MatMul Max MaxPool Mean Min Mish Mul Neg PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear
RMSNormalization Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Selu Shape
Sigmoid Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Upsample
Where
""".split()  # noqa: SIM905 (a list would be a page)
_FLOATS = {"FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"}
_OF_THE_RUNTIME = {f"resize_downsample_scales_{mode}_align_corners" for mode in ("linear", "cubic")}
_LEFT_OUT = ("FLOAT8", "FLOAT4", "FLOAT6", "INT4", "INT2", "STRING")


@dataclass(frozen=True)
class Case:
    """A single-operator model, what it is given, and what it has to answer."""

    operator: str
    name: str
    model: ModelProto
    inputs: list[Any]
    outputs: list[Any]
    rtol: float
    atol: float


def cases() -> Iterator[Case]:
    """The conformance cases of the operators, in the package's order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they compute overflows on purpose
        found = collect_testcases("")  # of all operators
    for case in found:
        assert case.model is not None
        assert case.data_sets is not None
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].op_type not in OPERATORS or "training" in case.name or not _usual(case.model):
            continue
        (inputs, outputs), *_ = case.data_sets
        name = case.name.removeprefix("test_")
        expected = _by_the_runtime(case.model, inputs) if name in _OF_THE_RUNTIME else list(outputs)
        yield Case(nodes[0].op_type, name, case.model, list(inputs), expected, case.rtol, case.atol)


def _by_the_runtime(model: ModelProto, inputs: Sequence[Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.input]
    return list(session.run(None, dict(zip(names, inputs, strict=True))))


def _usual(model: ModelProto) -> bool:
    """Whether numbers that an image model computes with go in or come out."""
    kinds = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    names = {TensorProto.DataType.Name(kind) for kind in kinds}
    return bool(names & _FLOATS) and not any(word in name for name in names for word in _LEFT_OUT)


def _tensor(value: Any) -> torch.Tensor:
    """A case's value; numpy has no bfloat16, and the package gives some values as messages."""
    array = numpy_helper.to_array(value).copy() if isinstance(value, TensorProto) else np.array(value)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(array)


def disagreement(case: Case) -> str | None:
    """Why the twin's answer is not the standard's; None if it is."""
    from robustcheck.models.twin import converted

    try:
        module = converted(case.model)
        inputs = [_tensor(value) for value in case.inputs]
        with torch.no_grad():
            plain = module.forward(*inputs)
        followed = module.forward(*_followed(inputs))  # as searches ask
    except Exception as error:  # noqa: BLE001 (whatever goes wrong is the answer)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    outputs = [_tensor(value) for value in case.outputs]
    return _differ(plain, outputs, case) or _differ(followed, outputs, case)


def _followed(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The first input is the image."""
    if not inputs or not inputs[0].is_floating_point():
        return inputs
    return [inputs[0].clone().requires_grad_(), *inputs[1:]]


def _differ(answer: Any, outputs: list[torch.Tensor], case: Case) -> str | None:
    answers = list(answer) if isinstance(answer, (tuple, list)) else [answer]
    if len(answers) < len(outputs):
        return f"{len(answers)} outputs, not {len(outputs)}"
    for ours, theirs in zip(answers, outputs, strict=False):
        if ours.shape != theirs.shape:
            return f"shape {tuple(ours.shape)}, not {tuple(theirs.shape)}"
        few_bits = theirs.is_floating_point() and theirs.itemsize < 4
        apart = {"rtol": max(case.rtol, 1e-2 if few_bits else 0), "atol": max(case.atol, 2e-3 if few_bits else 1e-5)}
        if not torch.allclose(ours.detach().double(), theirs.double(), equal_nan=True, **apart):
            return f"differs by {float((ours.detach().double() - theirs.double()).abs().nan_to_num().max()):.3g}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns how many cases disagree."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.onnx_conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)
    agreed: dict[str, int] = defaultdict(int)
    wrong: dict[str, list[str]] = defaultdict(list)
    for case in cases():
        reason = disagreement(case)
        if reason is None:
            agreed[case.operator] += 1
        else:
            wrong[case.operator].append(f"{case.name}: {reason}")
    for operator in sorted({*agreed, *wrong}):
        print(f"{operator:24} {agreed[operator]:3} of {agreed[operator] + len(wrong[operator])}")
        for line in wrong[operator]:
            print(f"    {line}")
    total, failed = sum(agreed.values()), sum(map(len, wrong.values()))
    print(f"{total} of {total + failed} agree")
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main()))
