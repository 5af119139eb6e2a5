"""What belongs to the whole process: settings that change answers or speed, and what a candidate's code may change."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv2d

from robustcheck import resources
from robustcheck.errors import EvaluationError

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # parameters of mallopt(3)
_KEEPING = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0}  # the heap does not shrink, and holds large tensors, too
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 65536}  # glibc's, at their largest
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_PRECISIONS = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")  # oneDNN's, which overrule torch
_OFF = 1e-4  # of the largest answer: float32 is off by 4e-7, float16 and TF32 by 3e-4, bfloat16 by 3e-3


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """float32 is float32, and the same question gets the same answer; settings are put back.

    TF32 (GPU) and bfloat16 (CPU) multiply float32 numbers where the user's code, or the candidate's, allows it.
    """
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    multiplying: list[Any] = [torch.backends.cuda.matmul, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    flags: list[tuple[str, bool]] = []
    if device.type == "cuda":
        multiplying += [cudnn.conv, cudnn.rnn]
        flags = [("enabled", True), ("benchmark", False), ("deterministic", True)]
        if _allows_tf32():
            flags.append(("allow_tf32", False))
    lower = [place for place in multiplying if place.fp32_precision != "ieee"]
    with ExitStack() as stack:  # a search enters once and asks a thousand times: inside it there is nothing to set
        for place in lower:
            stack.callback(_put_back, place, place.fp32_precision)
        for name, value in flags:
            if (before := getattr(cudnn, name)) != value:
                stack.callback(setattr, cudnn, name, before)
                setattr(cudnn, name, value)
        for place in lower:  # at last: `allow_tf32` sets two of them, too
            place.fp32_precision = "ieee"
        yield


@cache
def check_convolutions() -> None:
    """Check that a CPU's convolutions are in float32, once per process: an environment may say otherwise.

    Raises:
        EvaluationError: they are not, whatever `full_precision` sets.
    """
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(4, 32, 16, 16, generator=draws, dtype=torch.float32)  # enough for torch to hand it to oneDNN
    kernels = torch.rand(32, 32, 3, 3, generator=draws, dtype=torch.float32) - 0.5
    with left_as_found(), torch.no_grad(), full_precision(torch.device("cpu")):
        exact = conv2d(images.double(), kernels.double())
        off = float((conv2d(images, kernels) - exact).abs().max() / exact.abs().max())
    if off <= _OFF:
        return
    named = [f"{name}={os.environ[name]}" for name in _PRECISIONS if name in os.environ]
    raise EvaluationError(
        f"this machine's convolutions are not in float32 ({', '.join(named) or f'they are off by {off:.1e}'}), so a "
        f"verdict would not be either; {'unset it' if named else 'use another machine, or another build of torch'}"
    )


def _allows_tf32() -> bool:
    """Whether cuDNN's former flag allows it; it cannot be read where the settings that replace it contradict it.

    It has to follow them: code that reads it, as `torch.backends.cudnn.flags` does, would fail otherwise.
    """
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return False


def _put_back(place: Any, precision: str) -> None:
    """If the setting was inherited, it is inherited again, and follows what others set later."""
    place.fp32_precision = "none"
    if place.fp32_precision != precision:
        place.fp32_precision = precision


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Memory that the main thread frees is kept for its next needs, and given back at the end; not to be nested.

    glibc gives much of it back after each step. The system then has to make and clear pages for the next one, which
    takes up to a third of its time. glibc does not say what its thresholds were: afterwards they are the largest that
    it would have reached itself. If the user has chosen them, and with another C library, nothing is done.
    """
    library = _glibc()
    if library is None or any(name in os.environ for name in _CHOSEN):
        yield
        return
    try:
        for parameter, value in _KEEPING.items():
            library.mallopt(parameter, value)
        yield
    finally:
        for parameter, value in _USUAL.items():
            library.mallopt(parameter, value)
        give_back_freed_memory()


def give_back_freed_memory() -> None:
    """Give memory that was freed back to the system, now."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        return None
    library.mallopt.argtypes, library.malloc_trim.argtypes = (ctypes.c_int, ctypes.c_int), (ctypes.c_size_t,)
    return library


@contextmanager
def fitting_threads() -> Iterator[None]:
    """No more of torch's threads than can run at once; as many as before, afterwards.

    torch takes one per processor of the machine. A container may have only a few of those: threads beyond them wait for
    the others at each step. If the environment says how many, that many are used. An xdist worker must compute the
    same: the number of threads decides last bits.
    """
    before = torch.get_num_threads()
    most = before if any(name in os.environ for name in _THREADS) else resources.processors()
    try:
        if before > most:
            torch.set_num_threads(most)
        yield
    finally:
        if before > most:
            torch.set_num_threads(before)


@contextmanager
def left_as_found() -> Iterator[None]:
    """Torch's own defaults inside, and afterwards what was before.

    What building and trying a candidate does to random states, threads, grad mode and the default dtype is undone.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    threads, gradients, dtype = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        with _torchs_defaults():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def seed_all(seed: int) -> None:
    """Seed whatever a candidate's code may draw from: torch, NumPy and Python; inside `left_as_found`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def _torchs_defaults() -> Iterator[None]:
    """float32, on the CPU, without autocast and inference mode: what a caller has set for its own work has no effect.

    A candidate's code may set them again, and does where it opens an autocast of its own.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        for kind in ("cpu", "cuda"):
            stack.callback(torch.set_autocast_enabled, kind, torch.is_autocast_enabled(kind))
            torch.set_autocast_enabled(kind, False)
        # An autocast inside another one keeps its casts of weights, though these are trained meanwhile.
        while torch.autocast_decrement_nesting() >= 0:
            stack.callback(torch.autocast_increment_nesting)
        torch.autocast_increment_nesting()
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        yield
