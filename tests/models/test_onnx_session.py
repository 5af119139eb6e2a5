"""ONNX Runtime as a function of torch tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import model_of
from onnx import TensorProto, helper
from onnxruntime import quantization
from simulated_gpu import GPU, simulated_gpu

from robustcheck.errors import CandidateError
from robustcheck.models.memory import is_out_of_memory
from robustcheck.models.network import first_line
from robustcheck.models.onnx.session import Session, _providers
from robustcheck.words import last_line

WEIGHTS = np.random.default_rng(0).normal(size=(tiny.HEIGHT * tiny.WIDTH, 2)).astype(np.float32)
KINDS = [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.UINT8]


@pytest.fixture
def model(tmp_path):
    tiny.save_linear_onnx(tmp_path / "net.onnx", WEIGHTS)
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("kind", KINDS)
def test_memory_that_is_shared_gives_the_answer_that_copies_give(kind, tmp_path):
    tiny.save_linear_onnx(tmp_path / "net.onnx", WEIGHTS, kind=kind)
    session = Session(tmp_path / "net.onnx", tiny.CPU)
    images = tiny.pictures(5).shares() * 200
    copied = session(images)  # the first answer tells its shape, and goes through the host
    shared = session(images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2))  # of strides that it cannot read
    assert torch.equal(copied, shared)
    assert shared.dtype == torch.float32
    for number in (1, 0, 3):
        assert torch.equal(session(images[:number]), copied[:number])


def _asked_through_memory(session, monkeypatch):
    """How many images each answer had that went by memory that is shared."""
    bound, asked = session._bound, list[int]()

    def counted(values, row):
        answer = bound(values, row)
        asked.append(len(values))
        return answer

    monkeypatch.setattr(session, "_bound", counted)
    return asked


def test_memory_is_shared_where_one_image_is_asked_about_at_a_time(model, monkeypatch):
    session, images = Session(model, tiny.CPU), tiny.pictures(5).shares()
    asked = _asked_through_memory(session, monkeypatch)
    one_by_one = torch.cat([session(image[None]) for image in images])
    assert asked == [1, 1, 1, 1]
    assert torch.equal(session(images), one_by_one)
    assert asked == [1, 1, 1, 1, 5]


@pytest.mark.parametrize("shape", [[1, -1], [-1, 1], [2, -1]])
def test_an_answer_that_is_no_row_an_image_is_the_same_however_many(shape, tmp_path):
    """What one image's answer looks like may be a chance."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["two"]),
        helper.make_node("Reshape", ["two", "shape"], ["scores"]),
    ]
    onnx.save(model_of(nodes, held=[("w", WEIGHTS), ("shape", np.array(shape))]), tmp_path / "net.onnx")
    session, images = Session(tmp_path / "net.onnx", tiny.CPU), tiny.pictures(4).shares()
    for count in (1, 1, 3, 1, 2, 4):
        expected = (images[:count].flatten(1) @ torch.from_numpy(WEIGHTS)).reshape(shape)
        torch.testing.assert_close(session(images[:count]), expected, rtol=1e-4, atol=1e-5)


def test_an_answer_is_not_overwritten_by_the_next(model):
    session = Session(model, tiny.CPU)
    images = tiny.pictures(4).shares()
    session(images)
    first = session(images)
    kept = first.clone()
    session(1 - images)
    assert torch.equal(first, kept)


def test_it_takes_torchs_number_of_threads_and_does_not_spin(model, monkeypatch):
    import onnxruntime

    seen = []
    start = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: seen.append(a[1]) or start(*a, **k))
    Session(model, tiny.CPU)
    assert seen[0].intra_op_num_threads == torch.get_num_threads()
    assert seen[0].get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_gpu_answers_alike_from_run_to_run(model, monkeypatch):
    """Its convolutions are not chosen by the clock."""
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    (name, settings), _ = _providers(torch.device("cuda:1"))
    assert name == "CUDAExecutionProvider"
    assert settings == {
        "device_id": 1,
        "use_tf32": 0,
        "cudnn_conv_algo_search": "DEFAULT",
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert Session(model, tiny.CPU)._session.get_session_options().use_deterministic_compute


class Binding:
    """Stands for ONNX Runtime's, and remembers what is asked of it."""

    def __init__(self, asked):
        self._asked = asked

    def __getattr__(self, name):
        return lambda *_arguments: self._asked.append(name)


def test_images_are_whole_before_the_runtime_copies_them(model, monkeypatch):
    """What a CPU operator of a GPU session reads is copied when it is bound."""
    session, asked = Session(model, tiny.CPU), []
    stream = SimpleNamespace(synchronize=lambda: asked.append("torch is done"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: stream)
    session._device = torch.device("cuda:0")
    session._session = SimpleNamespace(
        io_binding=lambda: Binding(asked), run_with_iobinding=lambda *_: asked.append("run")
    )
    session._bound(torch.zeros(2, tiny.HEIGHT * tiny.WIDTH), (2,))
    assert asked == ["torch is done", "bind_input", "bind_output", "run", "synchronize_outputs"]


def test_a_session_does_not_leave_its_provider(model, monkeypatch):
    """It would print that it goes on without it; what failed is raised, and a batch that did not fit halved."""
    from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

    session, full = Session(model, tiny.CPU), "CUDA failure 2: out of memory"

    class Fails:
        def run(self, *_arguments):
            raise EPFail(full)

        def __getattr__(self, _name):
            return lambda *_arguments: False

    monkeypatch.setattr(session._session, "_sess", Fails())
    monkeypatch.setattr(session._session, "set_providers", lambda *_arguments: pytest.fail("it left its provider"))
    with pytest.raises(RuntimeError, match=full) as caught:
        session(tiny.pictures(2).shares())
    assert is_out_of_memory(caught.value)


def _out_of_memory(session, monkeypatch, answer, *, times):
    """How many images each try had, through memory that is shared; so many find none before there is an answer."""
    tried = list[int]()

    def fails(values, _row):
        tried.append(len(values))
        if len(tried) <= times:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 8000000000000")
        return answer[: len(values)]

    monkeypatch.setattr(session, "_bound", fails)
    monkeypatch.setattr(session, "_first", lambda _values: pytest.fail("it asked again, through the host"))
    return tried


def test_a_batch_that_does_not_fit_is_not_asked_again_through_the_host(model, monkeypatch):
    session, images = Session(model, tiny.CPU), tiny.pictures(4).shares()
    expected = session(images)
    tried = _out_of_memory(session, monkeypatch, expected, times=1)
    with pytest.raises(RuntimeError, match="Failed to allocate memory") as caught:
        session(images)
    assert is_out_of_memory(caught.value)
    assert torch.equal(session(images[:2]), expected[:2])
    assert tried == [4, 2]


@pytest.mark.parametrize("times", [1, 2])
def test_memory_that_torch_keeps_is_given_back_before_a_batch_does_not_fit(times, model, monkeypatch):
    """Of a GPU: the two libraries share it."""
    session, images = Session(model, tiny.CPU), tiny.pictures(4).shares()
    expected, given_back = session(images), []
    tried = _out_of_memory(session, monkeypatch, expected, times=times)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(len(tried)))
    monkeypatch.setattr(session, "_as_taken", lambda inputs: inputs)
    session._device = torch.device("cuda:0")
    if times == 1:
        assert torch.equal(session(images), expected)
    else:
        with pytest.raises(RuntimeError, match="Failed to allocate memory"):
            session(images)
    assert (tried, given_back) == ([4, 4], [1])


def test_a_library_of_operators_that_is_none(model, tmp_path):
    (tmp_path / "operators.so").write_bytes(b"no library")
    with pytest.raises(CandidateError, match=r"model\.operators: operators\.so cannot be loaded: "):
        tiny.load(model, operators=("operators.so",))
    with pytest.raises(CandidateError, match=r"model\.operators: there is no file .*missing\.so"):
        tiny.load(model, operators=("missing.so",))


def test_a_file_that_is_newer_than_the_runtime_is_told_so_and_not_where_that_is_found_out(model):
    newer = onnx.load(model)
    newer.ir_version = 99
    model.write_bytes(newer.SerializeToString())
    match = r"Unsupported model IR version: 99, max .*: \d+; export it for that one or an older one, or install a newer"
    with pytest.raises(CandidateError, match=match) as caught:
        Session(model, tiny.CPU)
    assert "onnxruntime" not in str(caught.value)


def test_what_fails_in_a_node_is_told_and_not_where_that_is_found_out(tmp_path):
    nodes = [helper.make_node("Reshape", ["image", "shape"], ["scores"])]
    onnx.save(model_of(nodes, held=[("shape", np.array([-1, 7]))]), tmp_path / "net.onnx")
    with pytest.raises(CandidateError, match=r"requested shape:\{-1,7\}") as caught:
        tiny.load(tmp_path / "net.onnx")
    assert "onnxruntime" not in str(caught.value)


def test_of_a_long_message_the_end_is_kept_too():
    told = first_line(ValueError(f"It begins. {'x' * 1000} It ends."))
    assert told.startswith("It begins. xxx")
    assert told.endswith("xxx It ends.")
    assert len(told) == 300


def test_a_long_message_is_cut_between_words():
    words = [f"word{number}" for number in range(1000, 1200)]
    told = first_line(ValueError(" ".join(words))).split()
    assert told[told.index("…") - 1] in words
    assert told[told.index("…") + 1] in words
    assert last_line(ValueError(" ".join(words))).removesuffix("…").split()[-1] in words


def test_on_a_simulated_gpu_nothing_goes_through_the_host(model):
    """From the second answer on: what the first is like is not known before."""
    images = tiny.pictures(5).shares()
    with simulated_gpu() as memory:
        session, there = Session(model, GPU), images.to(GPU)
        first, before = session(there), (memory.copied_here, memory.copied_there)
        again = session(there)
        assert (memory.copied_here, memory.copied_there) == before
        assert again.device == first.device == GPU
        torch.testing.assert_close(again.cpu(), images.flatten(1) @ torch.from_numpy(WEIGHTS))


@pytest.mark.parametrize("shape", [(1,), (1, 2, 1, 1)])
def test_on_a_simulated_gpu_single_images_do_not_go_through_the_host(shape, tmp_path):
    """Whatever the shape of the answer about them, where the file takes no more."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["rows"]),
        helper.make_node("Reshape", ["rows", "shape"], ["scores"]),
    ]
    weights = WEIGHTS[:, : shape[1] if shape[1:] else 1]
    held = [("weights", weights), ("shape", np.array(shape))]
    onnx.save(model_of(nodes, inputs=(1, 1, tiny.HEIGHT, tiny.WIDTH), held=held), tmp_path / "net.onnx")
    with simulated_gpu() as memory:
        session, there = Session(tmp_path / "net.onnx", GPU), tiny.pictures(1).shares().to(GPU)
        session(there)
        before = (memory.copied_here, memory.copied_there)
        assert session(there).shape == shape
        assert (memory.copied_here, memory.copied_there) == before


def test_operators_that_a_gpu_session_leaves_to_the_cpu_are_said(model, tmp_path):
    quantised = tmp_path / "quantised.onnx"
    images = SimpleNamespace(get_next=iter([{"image": tiny.pictures(5).shares().numpy()}, None]).__next__)
    quantization.quantize_static(model, quantised, images, quant_format=quantization.QuantFormat.QOperator)
    with simulated_gpu():
        notes = {path: " ".join(Session(path, GPU).notes) for path in (model, quantised)}
    assert "has left its operators QLinearMatMul to the CPU" in notes[quantised]
    assert "left" not in notes[model]
    assert "left" not in " ".join(Session(quantised, tiny.CPU).notes)


def test_a_type_that_the_runtime_lacks_is_told(tmp_path):
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["scores"], to=TensorProto.FLOAT),
    ]
    held = [("weights", np.ones((2, 1, tiny.HEIGHT, tiny.WIDTH)))]
    onnx.save(model_of(nodes, kind=TensorProto.DOUBLE, held=held), tmp_path / "net.onnx")
    with pytest.raises(CandidateError, match=r"for other types only: export it in float32"):
        Session(tmp_path / "net.onnx", tiny.CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_it_reads_and_writes_where_torch_does(model, monkeypatch):
    session = Session(model, torch.device("cuda"))
    images = tiny.pictures(5).shares().cuda()
    expected = images.flatten(1) @ torch.from_numpy(WEIGHTS).cuda()
    bound, asked = session._bound, list[int]()
    monkeypatch.setattr(session, "_bound", lambda *a: (bound(*a), asked.append(len(a[0])))[0])
    for _ in range(2):
        answer = session(images)
        assert answer.device.type == "cuda"
        torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)
    assert asked == [5]  # the second time, and it came back


def test_the_runtime_reports_nothing(model, tmp_path):
    """Where nothing says that this is CI, its wheels keep an identifier of the machine, and send what they did."""
    code = (
        "import sys, torch; from pathlib import Path; from robustcheck.models.onnx.session import Session; "
        "Session(Path(sys.argv[1]), torch.device('cpu'))(torch.zeros(1, 1, int(sys.argv[2]), int(sys.argv[3])))"
    )
    home = tmp_path / "home"
    home.mkdir()
    known = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "SYSTEMROOT")}
    subprocess.run(
        [sys.executable, "-c", code, str(model), str(tiny.HEIGHT), str(tiny.WIDTH)],
        env={**known, "HOME": str(home)}, check=True,
    )  # fmt: skip
    assert not list(home.rglob("*onnxruntime*"))
