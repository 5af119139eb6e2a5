"""ONNX graphs built by hand, and what is asked of candidates that are made of them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models as tiny
import torch
from onnx import TensorProto, helper, numpy_helper

from robustcheck.errors import AccessError

IMAGES = tiny.pictures(7)
ZEROS = torch.zeros(7, dtype=torch.int64)


def first_score(logits, *_others):
    return logits[:, 0]


def gradient_of(candidate, images=None):
    return candidate.gradient(IMAGES.shares() if images is None else images, ZEROS, ZEROS, first_score)[2]


def refused_by(candidate, match):
    with pytest.raises(AccessError, match=match):
        gradient_of(candidate)


def model_of(nodes, *, inputs=("n", 1, tiny.HEIGHT, tiny.WIDTH), kind=TensorProto.FLOAT, held=(), opset=17, domains=()):
    graph = helper.make_graph(
        nodes,
        "by-hand",
        [helper.make_tensor_value_info("image", kind, inputs)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["m", 2])],
        [numpy_helper.from_array(value, name) for name, value in held],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
