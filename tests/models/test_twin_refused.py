"""Twins that are no twins are refused, whatever hides it; and files that would mislead the converter."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, ZEROS, drawn, gradient_of, model_of, refused_by, with_scaled_gradient, with_twin
from onnx import TensorProto, helper, numpy_helper
from onnx2fx.op_registry import registry_context
from torch import nn

from robustcheck.errors import CandidateError
from robustcheck.models.stochastic import asked_only
from robustcheck.models.twin import convert, make_twin
from robustcheck.models.twin.builder import computes
from robustcheck.models.twin.graph import keep_only


def test_a_twin_of_other_scores_is_refused(tmp_path, net, monkeypatch):
    def shift(module):
        output = next(node for node in module.graph.nodes if node.op == "output")
        with module.graph.inserting_before(output):
            output.replace_input_with(output.args[0], module.graph.call_function(torch.add, (output.args[0], 0.01)))

    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    with_twin(monkeypatch, shift)
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    refused_by(candidate, r"its score [12] of 2 differs by 0\.01 on the samples \(at most 0\.0\d+ is allowed\)")
    assert candidate.logits(IMAGES.shares()).isfinite().all()


@pytest.mark.parametrize("part", [1.5, 0.0])
def test_a_twin_of_another_gradient_is_refused(part, tmp_path, net, monkeypatch):
    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    with_scaled_gradient(monkeypatch, part)
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    refused_by(candidate, r"its gradient differs from differences of ONNX Runtime's output by \d+% on average")


def _sure(path, gain):
    """A single sigmoid, sure of every image and not of what lies between two of them."""
    weights = drawn(tiny.HEIGHT * tiny.WIDTH, 1)
    half = IMAGES.shares().flatten(1).numpy().mean(axis=0)
    held = (("w", gain * weights), ("b", -gain * half @ weights))
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["scores"]),
    ]
    model = model_of(nodes, held=held)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(model, path)
    return torch.from_numpy(gain * weights)


def test_a_sigmoid_that_is_sure_of_every_image_is_followed(tmp_path):
    weights = _sure(tmp_path / "net.onnx", 1000)
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES, task="binary")
    assert not any("could not be compared" in note for note in candidate.info.notes)
    _, _, followed = candidate.gradient(IMAGES.shares(), ZEROS, ZEROS, lambda logits, *_others: logits[:, 1])
    torch.testing.assert_close(followed.flatten(1), weights.T.expand(7, -1))


@pytest.mark.parametrize("factor", [-1.0, 0.5])
def test_a_wrong_twin_of_a_sigmoid_that_is_sure_of_every_image_is_refused(factor, tmp_path, monkeypatch):
    def turn(module):
        output = next(node for node in module.graph.nodes if node.op == "output")
        with module.graph.inserting_before(output):
            step = module.graph.call_function(lambda p: factor * p + (1 - factor) * p.detach(), (output.args[0],))
            output.replace_input_with(output.args[0], step)

    _sure(tmp_path / "net.onnx", 1000)
    with_twin(monkeypatch, turn)
    refused_by(tiny.load(tmp_path / "net.onnx", IMAGES, task="binary")[0], "its gradient differs from differences")


def test_a_twin_that_fails_is_refused_and_prints_nothing(tmp_path, net, monkeypatch, capfd):
    def fail(module):
        output = next(node for node in module.graph.nodes if node.op == "output")
        with module.graph.inserting_before(output):
            output.replace_input_with(
                output.args[0], module.graph.call_function(torch.reshape, (output.args[0], (5, 7)))
            )

    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    with_twin(monkeypatch, fail)
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    refused_by(candidate, r"its differentiable twin is wrong, it fails: .*\[5, 7\]")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_twin_is_compared_as_searches_ask_it(tmp_path):
    """Whole numbers are kept as floats where a gradient is asked for, and their quotient is no whole number then."""
    held = (("scale", np.float32(255)), ("seven", np.array(7)), ("w", drawn(tiny.HEIGHT * tiny.WIDTH, 2)))
    nodes = [
        helper.make_node("Mul", ["image", "scale"], ["levels"]),
        helper.make_node("Cast", ["levels"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Div", ["whole", "seven"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["again"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["again"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    onnx.save(model_of(nodes, held=held), tmp_path / "net.onnx")
    refused_by(tiny.load(tmp_path / "net.onnx", IMAGES)[0], r"its score [12] of 2 differs by .* on the samples")


def test_a_graph_that_no_gradient_passes_has_no_wrong_twin_and_the_rest_goes_on(tmp_path):
    nodes = [
        helper.make_node("Greater", ["image", "half"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    held = (("half", np.float32(0.5)), ("w", drawn(tiny.HEIGHT * tiny.WIDTH, 2)))
    onnx.save(model_of(nodes, held=held), tmp_path / "net.onnx")
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert logits.isfinite().all()
    sentence = (
        r"^the candidate's scores do not depend differentiably on its input: it has no gradient, like nearest "
        r"neighbours and graphs that answer with their decision; use an attack that only asks \(square, nes, "
        r"label_only\), or transfer from a network that has one$"
    )
    refused_by(candidate, sentence)


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
    onnx.save(model_of(nodes, inputs=(1, 1, "h", "w"), held=(("w", drawn(1, 2)),)), tmp_path / "net.onnx")
    random = np.random.default_rng(0)
    shapes = [(6, 5), *[(8, 8)] * 6]
    samples = tiny.Pictures([random.integers(0, 256, (1, *shape), dtype=np.uint8) for shape in shapes])
    candidate, logits = tiny.load(tmp_path / "net.onnx", samples)
    large = torch.from_numpy(np.stack([samples.image(index) for index in range(1, 7)])).float() / 255
    torch.testing.assert_close(candidate.search_logits(large), logits[1:], rtol=1e-4, atol=1e-6)
    assert any("it takes batches of 1, as the graph does" in note for note in candidate.info.notes)


def test_rounding_that_the_scores_do_not_depend_on_loosens_nothing(tmp_path):
    model = tiny.save_linear_onnx(tmp_path / "net.onnx", drawn(tiny.HEIGHT * tiny.WIDTH, 2))
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


def test_inputs_and_outputs_that_are_left_out_do_not_belong_together():
    """Both have the empty name."""
    nodes = [
        helper.make_node("Unique", ["image"], ["values", "", "", ""]),
        helper.make_node("Resize", ["image", "", "", "sizes"], ["large"]),
        helper.make_node("Flatten", ["large"], ["scores"]),
    ]
    model = model_of(nodes, held=[("sizes", np.array([1, 1, 2, 1]))])
    keep_only(model.graph, "scores")
    assert [node.op_type for node in model.graph.node] == ["Resize", "Flatten"]


def test_weights_that_are_inputs_too_as_in_old_files(tmp_path):
    model = tiny.save_linear_onnx(tmp_path / "net.onnx", drawn(tiny.HEIGHT * tiny.WIDTH, 2))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([2.0]), "unused"))
    model.graph.node.append(helper.make_node("Mul", ["scores", "unused"], ["twice"]))
    model.graph.output.append(helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["n", 2]))
    shapes = {"w": [tiny.HEIGHT * tiny.WIDTH, 2], "unused": [1]}
    model.graph.input.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    onnx.save(model, tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES, output_name="scores")
    assert gradient_of(candidate).any()


def test_a_network_that_squeezes_one_image_away(tmp_path):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["pooled"]),
        helper.make_node("Squeeze", ["pooled"], ["scores"]),
    ]
    model = model_of(nodes, held=(("w", drawn(2, 1, 3, 3)),))
    onnx.save(model, tmp_path / "net.onnx")
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert torch.allclose(candidate.logits(IMAGES.shares()[:1]), logits[:1], atol=1e-6)
    assert gradient_of(candidate).any()


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
    held = (("sizes", np.array([7, 1, 9, 8])), ("w", drawn(72, 2)))
    model = model_of(nodes, inputs=(7, 1, tiny.HEIGHT, tiny.WIDTH), kind=TensorProto.UINT8, held=held, opset=19)
    onnx.save(model, tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES, preprocess={"range": [0, 255]})
    assert gradient_of(candidate).any()


def test_names_in_a_file_are_no_code(tmp_path, marker):
    """The converter writes Python source, and the names of a graph's values would stand in it."""
    evil = f"x); __import__('os').mkdir('{marker}') #"
    held = (("w", drawn(tiny.HEIGHT * tiny.WIDTH, 2)),)
    nodes = [
        helper.make_node("Flatten", ["image"], [evil], name=evil),
        helper.make_node("MatMul", [evil, "w"], ["scores"], name="\n\nimport os"),
    ]
    onnx.save(model_of(nodes, held=held), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert gradient_of(candidate).any()
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


@pytest.mark.parametrize(("before", "words"), [(None, "draws random numbers"), ("its operator Foo has none", "Foo")])
def test_a_graph_that_draws_is_asked_only_and_the_first_reason_stays(before, words):
    network = tiny.network(torch.nn.Identity(), settle_on=lambda _images: pytest.fail("compared"), no_gradients=before)
    asked = asked_only(network)
    assert words in asked.no_gradients
    assert asked.settle_on is None


def test_a_twin_that_fails_while_it_is_tried_names_the_operator(tmp_path, capfd):
    nodes = [
        helper.make_node("Relu", ["image"], ["bright"]),
        helper.make_node("Flatten", ["bright"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    onnx.save(model_of(nodes, held=[("w", drawn(tiny.HEIGHT * tiny.WIDTH, 2))]), tmp_path / "net.onnx")
    with registry_context():

        @computes("Relu")
        def fails(builder, node):
            return builder.call_function(torch.reshape, args=(builder.get_value(node.input[0]), (5, 7)))

        candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    refused_by(candidate, r"its differentiable twin is wrong, its operator Relu \(opset 17\) fails \(.*\[5, 7\]")
    assert capfd.readouterr() == ("", "")


def test_a_twin_keeps_the_weights_that_it_reads(tmp_path):
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "v", "b"], ["sums"]),
        helper.make_node("Mul", ["sums", "twice"], ["scores"]),
    ]
    held = [("w", drawn(tiny.HEIGHT * tiny.WIDTH, 5)), ("v", drawn(5, 2)), ("b", drawn(2)), ("twice", np.float32(2))]
    onnx.save(model_of(nodes, held=held), tmp_path / "net.onnx")
    twin = make_twin(tmp_path / "net.onnx", "scores", tiny.CPU)
    kept = sum(values.numel() for values in twin.module.state_dict().values())
    assert kept == sum(values.size for _, values in held)


def test_weights_of_more_than_a_message_can_have_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "LARGEST_BYTES", 100)
    tiny.save_linear_onnx(tmp_path / "net.onnx", drawn(tiny.HEIGHT * tiny.WIDTH, 2))
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    refused_by(
        candidate, r"its weights take 0\.0 GiB, but more than 2 cannot be followed; export it in float16, or use"
    )
