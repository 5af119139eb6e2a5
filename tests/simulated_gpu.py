"""A GPU that is not there: its memory is the host's, and a step that mixes the two fails, as it would on a real one.

What gates do with a GPU is real code that most machines cannot run. Here tensors know where they are said to lie: what
is asked for on `cuda` is made in the host's memory and remembered, answers lie where what they are computed of lies,
and a step whose operands lie in two places raises what PyTorch raises. ONNX Runtime's CUDA provider is its CPU provider
that takes only memory said to be the GPU's. Numbers are thus the CPU's; how a GPU computes is for `@pytest.mark.gpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_aten = torch.ops.aten
# Index tensors may lie in the host's memory, wherever the indexed one lies; copies go from one to the other.
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default}
_COPYING = {_aten.copy_.default, _aten._to_copy.default}
_READING = {torch.Tensor.numpy, torch.Tensor.__array__}


class Memory:
    """Which tensors are said to lie in the GPU's memory; whatever shares memory with one lies there, too."""

    def __init__(self) -> None:
        self._held: dict[int, StorageWeakRef] = {}
        self.copied_here = self.copied_there = 0  # tensors of one or more axes

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies there."""
        held = self._held.get(tensor.untyped_storage()._cdata)
        return held is not None and not held.expired()

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """From now on it lies there."""
        storage = tensor.untyped_storage()
        self._held[storage._cdata] = StorageWeakRef(storage)
        return tensor

    def take_all(self, made: Any) -> Any:
        """So do all tensors of an answer."""
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.take(leaf)
        return made


class _Steps(TorchDispatchMode):
    """Below autograd: what is computed of what, in backward passes and in compiled programs as well."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def __torch_dispatch__(self, step: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        memory, given = self.memory, [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [memory.holds(tensor) for tensor in given]
        if step not in _COPYING and any(there):
            shaped = [lies for tensor, lies in zip(given, there, strict=True) if tensor.ndim]
            if step in _INDEXING:
                shaped = shaped[:1] if shaped[0] else shaped
            if not all(shaped):
                raise RuntimeError(f"Expected all tensors to be on the same device, but {step} was given some of both")
        before = {tensor.untyped_storage()._cdata for tensor in given}
        made = step(*args, **(kwargs or {}))
        if any(there) and step not in _COPYING:
            for leaf in tree_leaves(made):
                if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in before:
                    memory.take(leaf)
        elif step is _aten._to_copy.default and there[0]:
            memory.take(made)
        return made


class _Calls(TorchFunctionMode):
    """Above autograd: who asks for `cuda` is given memory that is said to be the GPU's."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def __torch_function__(self, call: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        memory, kwargs = self.memory, dict(kwargs or {})
        first = args[0] if args else None
        if isinstance(first, torch.Tensor):
            if call == torch.Tensor.device.__get__:
                return self._device_of(first)
            if call == torch.Tensor.is_cuda.__get__:
                return memory.holds(first)
            if call in _READING and memory.holds(first):
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
            if call is torch.Tensor.pin_memory:
                return first
            if call in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
                return self._moved(call, first, args[1:], kwargs)
        asked = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if asked:
            kwargs["device"] = _CPU
        elif call is torch.Tensor.new_tensor and "device" not in kwargs:
            asked = memory.holds(args[0])
        made = call(*args, **kwargs)
        return memory.take_all(made) if asked else made

    def _moved(self, call: Any, tensor: torch.Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        here = self.memory.holds(tensor)
        if call is not torch.Tensor.to:
            there = call is torch.Tensor.cuda
            return tensor if there == here else self._copy(tensor, there)
        if rest and isinstance(rest[0], torch.Tensor):
            rest = (self._device_of(rest[0]), rest[0].dtype, *rest[1:])
        copy = kwargs.pop("copy", False)
        device, dtype, _, memory_format = torch._C._nn._parse_to(*rest, **kwargs)
        there = here if device is None else device.type == "cuda"
        if there != here:
            tensor, copy = self._copy(tensor, there), False
        settings = {} if memory_format is None else {"memory_format": memory_format}
        return tensor.to(dtype=dtype or tensor.dtype, copy=copy, **settings)

    def _device_of(self, tensor: torch.Tensor) -> torch.device:
        return GPU if self.memory.holds(tensor) else _CPU

    def _copy(self, tensor: torch.Tensor, there: bool) -> torch.Tensor:
        made: torch.Tensor = _Copy.apply(tensor, self.memory, there)
        return made


class _Copy(torch.autograd.Function):
    """A tensor, copied to the other memory; its gradient goes the other way."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, memory: Memory, there: bool) -> torch.Tensor:
        ctx.memory, ctx.there = memory, there
        return _copied(tensor, memory, there=there)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _copied(gradient, ctx.memory, there=not ctx.there), None, None


def _copied(tensor: torch.Tensor, memory: Memory, *, there: bool) -> torch.Tensor:
    with torch.utils._python_dispatch._disable_current_modes():
        made = tensor.detach().clone()
    memory.copied_there += there and tensor.ndim > 0
    memory.copied_here += not there and tensor.ndim > 0
    return memory.take(made) if there else made


@contextmanager
def simulated_gpu() -> Iterator[Memory]:
    """Inside, this machine has one GPU."""
    memory = _MEMORY  # one for the process: what is kept from one use to the next still lies there
    with pytest.MonkeyPatch.context() as patched:
        for name, answer in _ANSWERS.items():
            patched.setattr(torch.cuda, name, lambda *_given, answer=answer, **_more: answer)
        patched.setattr(torch.accelerator, "current_accelerator", lambda **_: None)  # of which optimisers ask a stream
        autocast: Callable[..., Any] = torch.autocast
        patched.setattr(torch, "autocast", lambda _kind, **settings: autocast("cpu", **settings))
        begin = onnxruntime.InferenceSession
        patched.setattr(onnxruntime, "InferenceSession", lambda *given, **more: _session(begin, *given, **more))
        patched.setattr(onnxruntime, "get_available_providers", lambda: list(_PROVIDERS))
        patched.setattr(onnxruntime, "preload_dlls", lambda: None)
        with _Steps(memory), _Calls(memory):
            yield memory


_MEMORY = Memory()
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_ANSWERS = {
    "is_available": True,
    "device_count": 1,
    "current_device": 0,
    "get_device_name": "simulated",
    "get_device_capability": (9, 0),
    "mem_get_info": (2**36, 2**37),
    "memory_reserved": 0,
    "memory_allocated": 0,
    "empty_cache": None,
    "synchronize": None,
    "current_stream": SimpleNamespace(synchronize=lambda: None),
    "get_rng_state_all": [],
    "set_rng_state_all": None,
}


def _session(begin: Any, *given: Any, providers: Any, **more: Any) -> Any:
    """A session on the CPU; one that was asked for CUDA says that it has it, and takes memory of the GPU only."""
    session = begin(*given, providers=["CPUExecutionProvider"], **more)
    return session if providers == ["CPUExecutionProvider"] else _OnGPU(session)


class _OnGPU:
    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return list(_PROVIDERS)

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """As the real provider, which has no operators on quantised numbers."""
        parts = self._session.get_provider_graph_assignment_info()
        left = [all(node.op_type.startswith("QLinear") for node in part.get_nodes()) for part in parts]
        return [
            SimpleNamespace(ep_name=_PROVIDERS[1 if on_cpu else 0], get_nodes=part.get_nodes)
            for part, on_cpu in zip(parts, left, strict=True)
        ]

    def io_binding(self) -> Any:
        return _Binding(self._session.io_binding())

    def run_with_iobinding(self, binding: _Binding, options: Any = None) -> None:
        self._session.run_with_iobinding(binding.binding, options)


class _Binding:
    def __init__(self, binding: Any) -> None:
        self.binding = binding

    def bind_input(self, name: str, kind: str, *rest: Any) -> None:
        assert kind == "cuda"
        self.binding.bind_input(name, "cpu", *rest)

    def bind_output(self, name: str, kind: str, *rest: Any) -> None:
        assert kind == "cuda"
        self.binding.bind_output(name, "cpu", *rest)

    def synchronize_outputs(self) -> None:
        self.binding.synchronize_outputs()
