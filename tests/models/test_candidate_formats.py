"""The same network in every format gives the same scores, and the same gradients where the format has any."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from onnx import TensorProto
from torch.nn.functional import cross_entropy

from robustcheck.errors import CandidateError

ZEROS = torch.zeros(6, dtype=torch.int64)


def _save_pt(wrap, **options):
    return lambda net, path: torch.save(wrap(net.state_dict()), path, **options)


def _with_prefix(prefix):
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


WITH_GRADIENTS = {
    "net.safetensors": tiny.save_safetensors,
    "bare.pt": _save_pt(lambda state: state),
    "bare.pth": _save_pt(lambda state: state),
    "bare.bin": _save_pt(lambda state: state),
    "before-torch-1.6.pt": _save_pt(lambda state: state, _use_new_zipfile_serialization=False),
    "checkpoint.pt": _save_pt(lambda state: {"epoch": 3, "state_dict": state}),
    "data-parallel.pt": _save_pt(_with_prefix("module.")),
    "compiled-lightning.ckpt": _save_pt(lambda state: {"state_dict": _with_prefix("model._orig_mod.")(state)}),
    "script.ts": tiny.save_script,
    "frozen.ts": tiny.save_frozen,
    "trace.ts": tiny.save_trace,
    "any-batch.pt2": tiny.save_exported,
    "batch-of-1.pt2": partial(tiny.save_exported, batch=None, number=1),
    "batch-of-4.pt2": partial(tiny.save_exported, batch=None, number=4),
    "batch-of-3-to-5.pt2": partial(tiny.save_exported, batch=torch.export.Dim("b", min=3, max=5), number=4),
    "untried-batch.pt2": partial(tiny.save_exported, batch=torch.export.Dim.AUTO),
}
THROUGH_TWINS = {
    "dynamo.onnx": tiny.save_onnx,
    "dynamo-batch-of-4.onnx": partial(tiny.save_onnx, batch=4),
    "external.onnx": tiny.save_onnx_external,
    "old.onnx": tiny.save_onnx_old,
    "old-batch-of-1.onnx": partial(tiny.save_onnx_old, batch=1),
    "old-batch-of-4.onnx": partial(tiny.save_onnx_old, batch=4),
}
SAVERS = WITH_GRADIENTS | THROUGH_TWINS


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory, net):
    folder = tmp_path_factory.mktemp("artefacts")
    for name, save in SAVERS.items():
        save(net, folder / name)
    return folder


def _expected(net, images):
    with torch.no_grad():
        return net(images * 2 - 1)


@pytest.mark.parametrize("name", SAVERS)
def test_the_same_scores(name, artefacts, net):
    samples = tiny.pictures(7)
    candidate, logits = tiny.load(artefacts / name, samples, preprocess={"range": [-1, 1]}, batch_size=3)
    expected = _expected(net, samples.shares())
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    for number in (0, 1, 2, 4, 7):
        again = candidate.logits(samples.shares()[:number])
        assert again.shape == (number, 2)
        torch.testing.assert_close(again, expected[:number], rtol=1e-5, atol=1e-6)
        assert again.dtype == torch.float32
        assert not again.requires_grad
    assert candidate.info.output == "logits (inferred from 7 samples)"


@pytest.mark.parametrize("name", SAVERS)
def test_the_same_gradients(name, artefacts, net):
    samples = tiny.pictures(7)
    candidate, _ = tiny.load(artefacts / name, samples, preprocess={"range": [-1, 1]}, batch_size=3)
    images, labels = samples.shares(), torch.tensor([0, 1, 0, 1, 1, 0, 1])
    logits, loss, gradient = candidate.gradient(images, labels, labels, _cross_entropy)
    wanted = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cross_entropy(net(wanted * 2 - 1), labels, reduction="sum"), wanted)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(logits, _expected(net, images), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, cross_entropy(net(images * 2 - 1), labels, reduction="none"), rtol=1e-4, atol=1e-6)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("batch-of-1.pt2", "its batch size is fixed at 1: images are padded to it"),
        ("batch-of-4.pt2", "its batch size is fixed at 4: images are padded to it"),
        ("batch-of-3-to-5.pt2", "it takes 3 to 5 images at once: they are split or padded"),
        ("old-batch-of-4.onnx", "its batch size is fixed at 4: images are padded to it"),
    ],
)
def test_a_bounded_batch_is_noted(name, note, artefacts):
    assert note in tiny.load(artefacts / name)[0].info.notes


@pytest.mark.parametrize("name", ["any-batch.pt2", "untried-batch.pt2", "old.onnx", "script.ts", "net.safetensors"])
def test_no_other_batch_is(name, artefacts):
    assert not [note for note in tiny.load(artefacts / name)[0].info.notes if "batch" in note or "at once" in note]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("net.safetensors", "safetensors"),
        ("bare.pt", "state-dict"),
        ("bare.pth", "state-dict"),
        ("script.ts", "torchscript"),
        ("any-batch.pt2", "torch.export"),
        ("old.onnx", "onnx"),
    ],
)
def test_the_digest_is_of_the_file(name, kind, artefacts):
    info = tiny.load(artefacts / name)[0].info
    assert info.format == kind
    assert [(file.path, file.bytes) for file in info.files] == [(name, (artefacts / name).stat().st_size)]


def test_the_digest_covers_external_data(artefacts, tmp_path):
    for file in artefacts.glob("external.onnx*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = tiny.load(tmp_path / "external.onnx")[0].info
    assert [file.path for file in before.files] == ["external.onnx", "external.onnx.data"]
    data = tmp_path / "external.onnx.data"
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    after = tiny.load(tmp_path / "external.onnx")[0].info
    assert after.sha256 != before.sha256
    assert after.files[0] == before.files[0]
    assert after.files[1].sha256 != before.files[1].sha256


def test_a_model_file_may_be_a_link(artefacts, tmp_path, net):
    (tmp_path / "linked.ts").symlink_to(artefacts / "script.ts")
    candidate, logits = tiny.load(tmp_path / "linked.ts")
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())
    assert candidate.info.sha256 != tiny.load(artefacts / "script.ts")[0].info.sha256  # the name is part of it
    assert candidate.info.files[0].sha256 == tiny.load(artefacts / "script.ts")[0].info.files[0].sha256


@pytest.mark.parametrize(
    "save", [tiny.save_script, tiny.save_trace, tiny.save_exported], ids=["script", "trace", "pt2"]
)
def test_a_network_of_double_precision(save, tmp_path):
    net = tiny.tiny_net().double()
    path = tmp_path / ("net.pt2" if save is tiny.save_exported else "net.ts")
    save(net, path)
    images = tiny.pictures().shares()
    candidate, logits = tiny.load(path)
    torch.testing.assert_close(logits, net(images.double()).detach().float())
    _, _, gradient = candidate.gradient(images, ZEROS, ZEROS, _first_score)
    assert gradient.dtype == torch.float32
    assert gradient.abs().sum() > 0


def _cross_entropy(logits, labels, _aims):
    return cross_entropy(logits, labels, reduction="none")


def _first_score(logits, _labels, _aims):
    return logits[:, 0]


# --- ONNX graphs built by hand ---------------------------------------------------------------------------------

RGB = ("n", 3, tiny.HEIGHT, tiny.WIDTH)
WEIGHTS = np.random.default_rng(0).normal(size=(tiny.HEIGHT * tiny.WIDTH, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "tolerance"), [(TensorProto.FLOAT, 1e-5), (TensorProto.DOUBLE, 1e-5), (TensorProto.FLOAT16, 2e-2)]
)
def test_onnx_of_each_float(kind, tolerance, tmp_path):
    tiny.save_linear_onnx(tmp_path / "linear.onnx", WEIGHTS, kind=kind)
    samples = tiny.pictures()
    _, logits = tiny.load(tmp_path / "linear.onnx", samples)
    expected = samples.shares().flatten(1).numpy() @ WEIGHTS
    np.testing.assert_allclose(logits.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_onnx_of_stored_integers(tmp_path):
    tiny.save_linear_onnx(tmp_path / "linear.onnx", WEIGHTS, kind=TensorProto.UINT8)
    samples = tiny.pictures()
    candidate, logits = tiny.load(tmp_path / "linear.onnx", samples, preprocess={"range": [0, 255]})
    expected = (samples.shares() * 255).round().flatten(1).numpy() @ WEIGHTS
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4)
    between = candidate.logits((samples.shares() * 255 + 0.3) / 255)  # nearest, and no overflow past 255
    torch.testing.assert_close(between, logits)
    torch.testing.assert_close(candidate.logits((samples.shares() * 255 - 0.3) / 255), logits)


@pytest.mark.parametrize(
    ("preprocess", "ends"),
    [
        ({"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, "-2.12 to 2.25"),
        ({"range": [0, 255], "mean": 127.5, "std": 127.5}, "-1 to 1"),
        ({"range": [0, 255], "mean": [0, 0, 120], "std": 1}, "-120 to 135"),
        ({"range": [0, 65535]}, "0 to 6.55e+04"),
        ({"range": [0, 2.6]}, "0 to 2.6"),
    ],
)
def test_images_that_are_no_bytes_for_a_candidate_of_bytes(preprocess, ends, tmp_path):
    """Cast to whole numbers, nearly all of them would be black or white."""
    tiny.save_linear_onnx(tmp_path / "net.onnx", np.repeat(WEIGHTS, 3, axis=0), kind=TensorProto.UINT8, shape=RGB)
    match = rf"takes whole numbers from 0 to 255, but .* makes numbers from {re.escape(ends)}; set .*range: \[0, 255\]"
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.onnx", tiny.pictures(3, channels=3), preprocess=preprocess)


def test_bytes_that_are_dark_for_white_are_bytes(tmp_path):
    tiny.save_linear_onnx(tmp_path / "net.onnx", WEIGHTS, kind=TensorProto.UINT8)
    _, logits = tiny.load(tmp_path / "net.onnx", preprocess={"range": [255, 0]})
    expected = (255 - tiny.pictures().shares() * 255).round().flatten(1).numpy() @ WEIGHTS
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4)


def test_halves_on_a_cpu_are_said_to_be_computed_in_float32(tmp_path):
    for kind, count in ((TensorProto.FLOAT16, 1), (TensorProto.FLOAT, 0)):
        tiny.save_linear_onnx(tmp_path / "net.onnx", WEIGHTS, kind=kind)
        notes = tiny.load(tmp_path / "net.onnx")[0].info.notes
        assert sum("in float32 on a CPU" in note for note in notes) == count


def test_onnx_of_halves_that_overflow_gives_a_sentence(tmp_path):
    tiny.save_linear_onnx(tmp_path / "linear.onnx", WEIGHTS, kind=TensorProto.FLOAT16)
    with pytest.raises(CandidateError, match="NaN or infinite scores on 6 of 6"):
        tiny.load(tmp_path / "linear.onnx", preprocess={"range": [0, 1e6]})


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_onnx_with_channels_last(batch, tmp_path):
    tiny.save_linear_onnx(tmp_path / "nhwc.onnx", np.repeat(WEIGHTS, 3, axis=0), shape=(batch, 6, 5, 3))
    samples = tiny.pictures(5, channels=3)
    _, logits = tiny.load(tmp_path / "nhwc.onnx", samples, preprocess={"layout": "NHWC"})
    expected = samples.shares().sum(dim=1).flatten(1).numpy() @ WEIGHTS
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_onnx_prints_nothing_of_its_own(tmp_path, capfd):
    tiny.save_linear_onnx(tmp_path / "linear.onnx", WEIGHTS)
    with pytest.raises(CandidateError, match="does not take inputs"):
        tiny.load(tmp_path / "linear.onnx", tiny.pictures(height=9))
    tiny.load(tmp_path / "linear.onnx")
    model = onnx.load(tmp_path / "linear.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 30]), "shape"))
    model.graph.node[1].CopyFrom(onnx.helper.make_node("Reshape", ["cast", "shape"], ["flat"]))
    onnx.save(model, tmp_path / "reshape.onnx")
    with pytest.raises(CandidateError, match=r"fails on inputs of 1×6×5 .*, the shape that it takes: .*Reshape"):
        tiny.load(tmp_path / "reshape.onnx")
    tiny.load(tmp_path / "reshape.onnx", batch_size=1)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_several_outputs_are_a_question(tmp_path):
    tiny.save_linear_onnx(tmp_path / "two.onnx", WEIGHTS, outputs=("scores", "features"))
    question = r"two\.onnx has 2 outputs \(scores \(float n×2\), features \(float n×2\)\).*name the one that has the "
    question += r"scores in model\.output_name"
    with pytest.raises(CandidateError, match=question):
        tiny.load(tmp_path / "two.onnx")
    with pytest.raises(CandidateError, match=r"no output 'score', which model\.output_name asks for; it has scores"):
        tiny.load(tmp_path / "two.onnx", output_name="score")


def test_one_of_several_outputs(tmp_path, net):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, image):
            scores = self.net(image)
            return image.mean(dim=(2, 3)), scores

    names = {"input_names": ["image"], "output_names": ["features", "scores"]}
    axes = {"image": {0: "batch"}, "features": {0: "batch"}, "scores": {0: "batch"}}
    tiny.quietly(
        torch.onnx.export, Two().eval(), (tiny.image_for(net),), str(tmp_path / "two.onnx"), dynamo=False,
        dynamic_axes=axes, **names,
    )  # fmt: skip
    samples = tiny.pictures()
    candidate, logits = tiny.load(tmp_path / "two.onnx", samples, output_name="scores")
    with torch.no_grad():
        torch.testing.assert_close(logits, net(samples.shares()), rtol=1e-5, atol=1e-6)
    _, _, gradient = candidate.gradient(samples.shares(), ZEROS, ZEROS, _first_score)
    wanted = samples.shares().requires_grad_()
    (expected,) = torch.autograd.grad(net(wanted)[:, 0].sum(), wanted)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_several_inputs_are_refused(tmp_path):
    tiny.save_linear_onnx(tmp_path / "two.onnx", WEIGHTS, inputs=("image", "age"))
    with pytest.raises(CandidateError, match=r"two\.onnx has 2 inputs \(image, age\); one image is needed: make "):
        tiny.load(tmp_path / "two.onnx")


def test_an_input_of_another_type_is_refused(tmp_path):
    tiny.save_linear_onnx(tmp_path / "whole.onnx", WEIGHTS, kind=TensorProto.INT32)
    with pytest.raises(CandidateError, match=r"takes tensor\(int32\); float, float16, double and uint8 inputs .* Cast"):
        tiny.load(tmp_path / "whole.onnx")


class OfSoMany(tiny.TinyNet):
    """The number of images of its trace is a constant of it."""

    def forward(self, image):
        parts = self.bn(self.conv(image))
        return self.fc(parts.reshape(int(parts.shape[0]), 3, -1).mean(2))


@pytest.mark.parametrize(
    ("number", "match"),
    [
        (
            2,
            r"scores of shape \(2, 2\), like one that was traced for 2 images: .* or trace it for one and set model",
        ),
        (1, r"scores of shape \(1, 2\), like one that was traced for 1 image: .* or set model\.batch_size: 1$"),
    ],
)
def test_a_trace_of_so_many_images(number, match, tmp_path):
    net = OfSoMany().eval()
    trace = tiny.quietly(torch.jit.trace, net, tiny.image_for(net, number))
    tiny.quietly(torch.jit.save, trace, str(tmp_path / "net.ts"))
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.ts")
    if number == 1:
        tiny.load(tmp_path / "net.ts", batch_size=1)


def test_an_answer_that_is_the_decided_label_is_refused(tmp_path):
    model = tiny.save_linear_onnx(tmp_path / "label.onnx", WEIGHTS)
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
    (tmp_path / "label.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CandidateError, match=r"answers with tensor\(int64\) in label, not with scores"):
        tiny.load(tmp_path / "label.onnx")


@pytest.mark.parametrize("kinds", ["map", "tensor"])
def test_probabilities_that_are_a_table_an_image_are_told_how_to_be_exported(kinds, tmp_path):
    """As skl2onnx writes them by default, the label first; other sequences are none of its."""
    model = tiny.save_linear_onnx(tmp_path / "zipped.onnx", WEIGHTS)
    zipped = {"domain": "ai.onnx.ml", "classlabels_int64s": [0, 1]}
    last = [
        onnx.helper.make_node("ZipMap", ["scores"], ["tables"], **zipped)
        if kinds == "map"
        else onnx.helper.make_node("SequenceConstruct", ["scores"], ["tables"]),
        onnx.helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    inner = onnx.helper.make_tensor_type_proto(TensorProto.FLOAT, [] if kinds == "map" else None)
    table = onnx.helper.make_map_type_proto(TensorProto.INT64, inner) if kinds == "map" else inner
    model.graph.node.extend(last)
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 1))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
    tables = onnx.helper.make_sequence_type_proto(table)
    model.graph.output.append(onnx.helper.make_value_info("tables", tables))
    (tmp_path / "zipped.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CandidateError, match=r"answers with tensor\(int64\) in label, not with scores") as caught:
        tiny.load(tmp_path / "zipped.onnx")
    assert ("(skl2onnx: export with options={'zipmap': False}" in str(caught.value)) is (kinds == "map")


def test_quantised_scores_are_refused(tmp_path):
    model = tiny.save_linear_onnx(tmp_path / "bytes.onnx", WEIGHTS)
    model.graph.node.append(onnx.helper.make_node("Cast", ["scores"], ["bytes"], to=TensorProto.INT8))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("bytes", TensorProto.INT8, ["n", 2]))
    (tmp_path / "bytes.onnx").write_bytes(model.SerializeToString())
    match = r"answers with tensor\(int8\) in bytes, not with scores; keep float ones .* DequantizeLinear behind these"
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "bytes.onnx")


def test_operators_in_any_order(tmp_path, net):
    """ONNX Runtime's float16 converter appends what it adds, and the runtime sorts."""
    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    nodes = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    samples = tiny.pictures()
    candidate, logits = tiny.load(tmp_path / "net.onnx", samples)
    torch.testing.assert_close(logits, net(samples.shares()).detach(), rtol=1e-5, atol=1e-6)
    assert candidate.network.twin is not None


def test_operators_are_not_compared_with_each_other(tmp_path, net, monkeypatch):
    """Of which some graphs have ten thousands."""
    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    monkeypatch.setattr("onnx2fx.graph_builder._topological_sort", lambda *_: pytest.fail("they were sorted again"))
    assert tiny.load(tmp_path / "net.onnx")[0].network.twin is not None


def test_operators_in_a_circle(tmp_path, net):
    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    first, last = model.graph.node[0], model.graph.node[-1]
    first.input[0] = last.output[0]
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CandidateError, match=r"net\.onnx is not valid ONNX"):
        tiny.load(tmp_path / "net.onnx")


class _TwoInputs(tiny.TinyNet):
    def forward(self, image, age):
        return super().forward(image) + age


class Placing(tiny.TinyNet):
    """Exporters write down where the tensors lie that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = torch.tensor([2.0, 3.0])

    def forward(self, image):
        places = torch.arange(2, device=image.device).to(image.device, torch.float32)
        return super().forward(image) * self.gains + torch.ones(2, device=image.device) * places


def test_a_program_that_was_exported_on_a_gpu(tmp_path):
    """Its archive says of weights, constants and arguments that they lie there."""
    net = Placing().eval()
    tiny.save_exported(net, tmp_path / "cpu.pt2")
    names = ("model.json", "model_weights_config.json", "model_constants_config.json")
    there = {name: _on_a_gpu(tiny.member(tmp_path / "cpu.pt2", name)) for name in names}
    tiny.rezip(tmp_path / "cpu.pt2", tmp_path / "net.pt2", there)
    _, logits = tiny.load(tmp_path / "net.pt2")
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


def _on_a_gpu(written):
    there = written.replace(b'{"type": "cpu", "index": null}', b'{"type": "cuda", "index": 0}')
    assert there != written
    return there


def test_programs_of_several_inputs_are_refused(tmp_path):
    path = tmp_path / "net.pt2"
    image = torch.rand(2, 1, 6, 5)
    torch.export.save(torch.export.export(_TwoInputs().eval(), (image, torch.ones(2, 1))), path)
    with pytest.raises(CandidateError, match=r"has 2 inputs \(image, age\); one image is needed"):
        tiny.load(path)
