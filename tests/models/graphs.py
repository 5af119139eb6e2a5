"""ONNX graphs built by hand, and what is asked of candidates that are made of them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import tiny_models as tiny
import torch
from onnx import TensorProto, helper, numpy_helper

from robustcheck.errors import AccessError
from robustcheck.models.twin import convert, converted

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


def agrees_with_runtime(model, inputs, *, atol):
    """Assert that the twin's answer is ONNX Runtime's, and a gradient reaches the first input."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {name: np.array(value) for name, value in inputs.items()})[-1]
    tensors = [torch.from_numpy(np.array(value)) for value in inputs.values()]
    module = converted(model)
    answer = module.forward(*tensors)
    ours = answer[-1] if isinstance(answer, (tuple, list)) else answer
    np.testing.assert_allclose(ours.numpy().astype(float), theirs.astype(float), atol=atol, rtol=1e-5)
    image = tensors[0].float().requires_grad_()
    answer = module.forward(image, *tensors[1:])
    followed = answer[-1] if isinstance(answer, (tuple, list)) else answer
    np.testing.assert_allclose(followed.detach().numpy(), theirs.astype(float), atol=atol, rtol=1e-5)
    weights = torch.arange(1.0, followed.numel() + 1).view(followed.shape)
    (gradient,) = torch.autograd.grad((followed * weights).sum(), image)
    assert gradient.any()


def one_node(node, inputs, outputs, opset=17):
    """A model of one node; inputs as arrays by their names, outputs as their types."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype) for name, value in inputs.items()}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, kinds[name], np.shape(value)) for name, value in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
    )
    domains = [helper.make_opsetid(node.domain, 1)] if node.domain else []
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=9)


def with_twin(monkeypatch, change):
    """Every twin is changed before it is compared."""
    make = convert.converted

    def changed(model):
        module = make(model)
        change(module)
        module.recompile()
        return module

    monkeypatch.setattr(convert, "converted", changed)


def with_scaled_gradient(monkeypatch, part):
    """Every twin gives the same scores, with this part of their gradient."""

    def scale(module):
        image = next(node for node in module.graph.nodes if node.op == "placeholder")
        users = list(image.users)
        with module.graph.inserting_after(image):
            same = module.graph.call_function(lambda x: x * part + (x * (1 - part)).detach(), (image,))
        for user in users:
            user.replace_input_with(image, same)

    with_twin(monkeypatch, scale)
