"""Weights of whole numbers, as quantisers leave them, as the floats that they stand for.

They are constants: products with them are layers, and no pass computes them again. The gradient with weights of four
bits is exact except for what the runtime rounds to multiply faster.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from robustcheck.models.twin.builder import RUNTIME

_FOUR_BITS = (TensorProto.INT4, TensorProto.UINT4)
_COMPUTED = (*_FOUR_BITS, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32)
_IN_EIGHT_BITS = 4  # an accuracy_level
_Floats = NDArray[np.float32]


def unpack(graph: GraphProto) -> bool:
    """Replace dequantised constants, and products with packed weights, by constants and plain products.

    Returns:
        Whether ONNX Runtime may round what is multiplied with them to eight bits, as it does by default when it packs
        dequantised weights.
    """
    rounds = False
    held = {tensor.name: tensor for tensor in graph.initializer}
    unpacked: list[NodeProto] = []
    for node in graph.node:
        weights = held.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        rounds |= weights is not None and _packable(node, weights) and _is_multiplied(node.output[0], graph)
        if weights is not None and weights.data_type in _COMPUTED and all(name in held for name in node.input if name):
            values = _dequantised(node, [numpy_helper.to_array(held[name]) for name in node.input if name])
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        elif (node.domain, node.op_type) == (RUNTIME, "MatMulNBits"):
            unpacked += _product(graph, node, held)
            rounds |= any(found.name == "accuracy_level" and found.i == _IN_EIGHT_BITS for found in node.attribute)
        else:
            unpacked.append(node)
    used = {name for node in unpacked for name in node.input} | {value.name for value in graph.output}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used or tensor.data_type not in _FOUR_BITS]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(unpacked)
    graph.initializer.extend(tensors)
    return rounds


def _packable(node: NodeProto, weights: TensorProto) -> bool:
    """Whether ONNX Runtime may pack them: four bits, or blocks of more."""
    return weights.data_type in _FOUR_BITS or any(found.name == "block_size" and found.i for found in node.attribute)


def _is_multiplied(name: str, graph: GraphProto) -> bool:
    """Whether a matrix product reads a value, perhaps transposed."""
    users = [node for node in graph.node if name in node.input]
    return any(
        node.op_type in ("MatMul", "Gemm") or (node.op_type == "Transpose" and _is_multiplied(node.output[0], graph))
        for node in users
    )


def _dequantised(node: NodeProto, inputs: list[NDArray[np.generic]]) -> _Floats:
    """(x - zero) * scale, of a tensor, an axis, or blocks along one (ONNX DequantizeLinear-21)."""
    settings = {found.name: found.i for found in node.attribute}
    levels, scale = inputs[0].astype(np.float32), inputs[1].astype(np.float32)
    zero = inputs[2].astype(np.float32) if len(inputs) > 2 else np.zeros_like(scale)
    axis = settings.get("axis", 1) % max(1, levels.ndim)
    if block := settings.get("block_size", 0):
        scale, zero = (part.repeat(block, axis).take(range(levels.shape[axis]), axis) for part in (scale, zero))
    elif scale.ndim == 1:
        sizes = [-1 if place == axis else 1 for place in range(levels.ndim)]
        scale, zero = scale.reshape(sizes), zero.reshape(sizes)
    values: _Floats = ((levels - zero) * scale).astype(np.float32)
    return values


def _product(graph: GraphProto, node: NodeProto, held: dict[str, TensorProto]) -> list[NodeProto]:
    """`com.microsoft.MatMulNBits`: a product with weights (N, K) whose rows are packed in blocks."""
    settings = {found.name: found.i for found in node.attribute}
    rows, columns, block = (settings.get(key, 0) for key in ("N", "K", "block_size"))
    bits = settings.get("bits", 4)
    image, *others = node.input
    packed, scales, zeros, order, bias = (*others, "", "", "", "", "")[:5]
    if bits not in (4, 8) or order or not all(name in held for name in (packed, scales, zeros) if name):
        return [node]
    blocks = -(-columns // block)
    levels = _unpacked(numpy_helper.to_array(held[packed]).reshape(rows, blocks, -1), bits)[..., :block]
    scale = numpy_helper.to_array(held[scales]).reshape(rows, blocks, 1)
    zero: NDArray[np.generic] = np.float32(1 << bits - 1).reshape(1, 1, 1)
    if zeros:
        zero = numpy_helper.to_array(held[zeros])
        if zero.dtype == np.uint8:
            zero = _unpacked(zero.reshape(rows, -1), bits)[:, :blocks]
        zero = zero.reshape(rows, blocks, 1)
    values = ((levels.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)).reshape(rows, -1)
    (answer,) = node.output
    name = f"{answer}/weights"  # packed ones may be shared, with scales of each product's own
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values[:, :columns].T), name))
    if not bias:
        return [helper.make_node("MatMul", [image, name], [answer])]
    sums = f"{answer}/before-bias"
    return [helper.make_node("MatMul", [image, name], [sums]), helper.make_node("Add", [sums, bias], [answer])]


def _unpacked(values: NDArray[np.generic], bits: int) -> NDArray[np.uint8]:
    """Bytes (…, B) as the numbers in them (…, 8 / bits * B), the lower bits first."""
    whole = values.astype(np.uint8)
    if bits == 8:
        return whole
    both: NDArray[np.uint8] = np.stack([whole & 15, whole >> 4], axis=-1).reshape(*whole.shape[:-1], -1)
    return both
