"""Batches that fit: split, halved when memory runs out, and in order."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from robustcheck.errors import CandidateError, NoMemoryError
from robustcheck.models.batches import batches
from robustcheck.models.memory import Chunks, is_out_of_memory
from robustcheck.models.trial import _batch_size

ERRORS = (
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    lambda: RuntimeError("Failed to allocate memory for requested buffer of size 8000000000000"),
    lambda: RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    lambda: RuntimeError("std::bad_alloc"),
    lambda: RuntimeError("Available memory of 0 is smaller than requested bytes of 8000000000000"),
    lambda: MemoryError(),
)


class Greedy:
    """Doubles its rows, as long as there are not too many."""

    def __init__(self, most, error=ERRORS[0]):
        self.most, self.error, self.sizes = most, error, []

    def __call__(self, rows, *others):
        self.sizes.append(len(rows))
        if len(rows) > self.most:
            raise self.error()
        return (rows * 2, *others)


@given(limit=st.integers(1, 20), total=st.integers(0, 40), most=st.integers(1, 20))
def test_what_comes_out_does_not_depend_on_the_memory(limit, total, most):
    rows, labels = torch.arange(total * 2).view(total, 2), torch.arange(total)
    chunks, function = Chunks(limit), Greedy(most)
    doubled, same = chunks(function, rows, labels)
    assert torch.equal(doubled, rows * 2)
    assert torch.equal(same, labels)
    assert (chunks.halved_to is None) == (max(function.sizes) <= most)
    assert chunks.limit <= limit


@pytest.mark.parametrize("error", ERRORS)
def test_it_halves_until_it_fits_and_remembers(error):
    chunks, function = Chunks(20), Greedy(3, error)
    chunks(function, torch.zeros(10))
    assert function.sizes == [10, 5, 2, 2, 2, 2, 2]  # not 20: there were ten
    assert (chunks.limit, chunks.halved_to) == (2, 2)
    function.sizes.clear()
    chunks(function, torch.zeros(4))
    assert function.sizes == [2, 2]


@pytest.mark.parametrize("total", [1, 9])
def test_down_to_one_and_no_further(total):
    chunks, function = Chunks(8), Greedy(0)
    sentence = "^memory ran out with a batch of one image; give the gate smaller images or more memory$"
    with pytest.raises(NoMemoryError, match=sentence):
        chunks(function, torch.zeros(total))
    assert function.sizes == ([8, 4, 2, 1] if total == 9 else [1])


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("x"), KeyError("memory"), CandidateError("y")])
def test_other_errors_pass(error):
    def fail(_rows):
        raise error

    chunks = Chunks(8)
    with pytest.raises(type(error)) as caught:
        chunks(fail, torch.zeros(9))
    assert caught.value is error
    assert chunks.halved_to is None


@pytest.mark.parametrize(
    "message",
    [
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    ],
)
def test_what_is_not_there_may_be_what_does_not_fit(message):
    error = RuntimeError(message)

    def fail():
        raise error

    chunks = Chunks(8)
    assert chunks(Greedy(3, fail), torch.zeros(8))[0].tolist() == [0] * 8
    assert chunks.halved_to == 2
    with pytest.raises(RuntimeError) as caught:
        chunks(Greedy(0, fail), torch.zeros(8))
    assert caught.value is error  # there is none for this convolution, or no device


def test_an_interrupt_is_no_lack_of_memory():
    assert not is_out_of_memory(KeyboardInterrupt("out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_nothing_is_asked_once():
    seen = []

    def remember(rows):
        seen.append(len(rows))
        return (rows,)

    (answer,) = Chunks(4)(remember, torch.zeros(0, 3))
    assert answer.shape == (0, 3)
    assert seen == [0]


def test_a_candidate_halves(tmp_path, net):
    """Scores and gradients that did not fit are those that did."""
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    candidate, logits = tiny.load(tmp_path / "net.safetensors", tiny.pictures(7), batch_size=7)
    forward, sizes = candidate.network.forward, []

    def narrow(inputs):
        sizes.append(len(inputs))
        if len(inputs) > 2:
            raise ERRORS[1]()
        return forward(inputs)

    images, labels = tiny.pictures(7).shares(), torch.tensor([0, 1, 0, 1, 0, 1, 0])
    _, _, expected = candidate.gradient(images, labels, labels, _margin)
    object.__setattr__(candidate.network, "forward", narrow)
    torch.testing.assert_close(candidate.logits(images), logits)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    candidate.chunks.limit, candidate.chunks.halved_to = 5, None
    again, _, gradient = candidate.gradient(images, labels, labels, _margin)
    torch.testing.assert_close(again, logits)
    torch.testing.assert_close(gradient, expected)
    assert candidate.chunks.halved_to == 2


def test_memory_that_runs_out_while_a_candidate_is_loaded(tmp_path, net, monkeypatch):
    """Each of the samples is asked about, though fewer go at once than did when asking began."""
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    _, expected = tiny.load(tmp_path / "net.safetensors", tiny.pictures(9))
    forward = tiny.TinyNet.forward

    def narrow(self, image):
        if len(image) > 2:
            raise ERRORS[0]()
        return forward(self, image)

    monkeypatch.setattr(tiny.TinyNet, "forward", narrow)
    candidate, logits = tiny.load(tmp_path / "net.safetensors", tiny.pictures(9), batch_size=4)
    torch.testing.assert_close(logits, expected)
    assert candidate.chunks.halved_to == 2


@given(lengths=st.lists(st.integers(1, 3), max_size=20), limit=st.none() | st.integers(1, 5))
def test_only_equal_shapes_make_a_batch(lengths, limit):
    """Every member is in one of them, in its order, and no batch is smaller than it has to be."""
    members = list(enumerate(lengths))
    found = list(batches(members, lambda member: (1, 1, member[1]), limit))
    for length in set(lengths):
        own = [batch for batch in found if batch[0][1] == length]
        assert [member for batch in own for member in batch] == [member for member in members if member[1] == length]
        assert [len(batch) for batch in own[:-1]] == [limit] * (len(own) - 1)
        assert 1 <= len(own[-1]) <= (limit or len(lengths))
    assert sum(map(len, found)) == len(members)


@pytest.mark.parametrize(("side", "limit"), [(4, 128), (1024, 32), (3000, 3)])
def test_few_images_at_once_where_what_is_stored_is_large(side, limit, tmp_path, net):
    """Even if the network is shown little of it: a search holds images as they are stored."""

    class Large:
        maximum, zero, hounsfield = 255, 0, None

        def __len__(self):
            return 1

        def shape_of(self, _index):
            return (1, side, side)

        def image(self, _index):
            return np.zeros((1, side, side), np.uint8)

    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    candidate, _ = tiny.load(tmp_path / "net.safetensors", Large(), preprocess={"resize": [6, 5]})
    assert candidate.chunks.limit == limit


def test_one_image_at_once_however_large_it_is_stored():
    assert _batch_size(tiny.spec("net.onnx"), (3, 224, 224), (3, 4000, 3000), tiny.CPU) == 1


@pytest.mark.parametrize("sides", [(4, 3000), (3000, 4)])
def test_the_largest_image_says_how_many_go_at_once(sides, tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    samples = tiny.Pictures([np.zeros((1, side, side), np.uint8) for side in sides])
    candidate, _ = tiny.load(tmp_path / "net.safetensors", samples, preprocess={"resize": [6, 5]})
    assert candidate.chunks.limit == 3


def test_what_halves_within_another_is_not_undone_by_it():
    chunks, sizes = Chunks(16), []

    def outer(rows):
        sizes.append(len(rows))
        if len(sizes) == 1:
            chunks(Greedy(2), torch.zeros(16))
            raise ERRORS[0]()
        return (rows,)

    chunks(outer, torch.zeros(16))
    assert sizes == [16] + [2] * 8
    assert (chunks.limit, chunks.halved_to) == (2, 2)


@pytest.mark.parametrize(("free", "limit"), [(139, 445), (64, 445), (16, 111), (0.5, 8)])
@pytest.mark.parametrize("kept", [0, 4])
def test_fewer_images_at_once_on_a_gpu_of_which_less_is_free(kept, free, limit, monkeypatch):
    """GiB; what a search holds besides is not halved where memory runs out. What torch keeps to hand out is free."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (int((free - kept) * gib), 139 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: (kept + 1) * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: gib)
    shape, spec = (3, 224, 224), tiny.spec("net.onnx")
    assert _batch_size(spec, shape, shape, torch.device("cuda:0")) == limit


def _margin(logits, labels, _aims):
    return -logits.gather(1, labels[:, None]).squeeze(1)


def test_a_candidate_that_no_memory_holds(tmp_path, net, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    monkeypatch.setattr(tiny.TinyNet, "to", fail)
    with pytest.raises(
        NoMemoryError, match=r"net\.safetensors alone, without any image, does not fit in the memory of cpu"
    ):
        tiny.load(tmp_path / "net.safetensors")


def test_a_graph_that_no_memory_holds(tmp_path):
    """Through ONNX Runtime: its own words for it are understood."""
    model = tiny.save_linear_onnx(tmp_path / "net.onnx", np.ones((30, 2), np.float32))
    large = {"nothing": np.zeros(1, np.float32), "large": np.full(1, 1e15, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in large.items())
    model.graph.node[-1].output[0] = "small"
    model.graph.node.extend(
        [
            helper.make_node("ReduceSum", ["small"], ["any"], keepdims=0),  # only the image tells: no check sees it
            helper.make_node("Mul", ["any", "nothing"], ["none"]),
            helper.make_node("Add", ["none", "large"], ["wide"]),
            helper.make_node("Cast", ["wide"], ["size"], to=TensorProto.INT64),
            helper.make_node("ConstantOfShape", ["size"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            helper.make_node("Add", ["small", "sum"], ["scores"]),
        ]
    )
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    sentence = (
        "memory ran out with a batch of one image, for which its graph asks for 3,999,999,947,9[0-9]{2},[0-9]{3} bytes "
        "at once; give the gate smaller images or more memory, or mend the graph if it computes a tensor of an absurd "
        "size$"
    )
    with pytest.raises(NoMemoryError, match=sentence):
        tiny.load(tmp_path / "net.onnx")
