"""Batches that fit: split into chunks, and halved when memory runs out."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from robustcheck.errors import NoMemoryError
from robustcheck.models.process_settings import give_back_freed_memory

_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "bad allocation",
    "bad_alloc",
    "alloc_failed",
    "allocation_failed",
    "is smaller than requested bytes",
)
# cuDNN's convolutions say the first if their workspace does not fit, and also if there are none of that kind; the
# libraries say the second if they do not fit themselves, and also if there is no device.
_AMBIGUOUS_SIGNS = ("unable to find an engine to execute this computation", "_status_not_initialized")

_OF_A_GRAPH = "[ONNXRuntimeError]"
_ASKED_FOR = re.compile(r"requested buffer of size (\d{1,20})\b")


def is_out_of_memory(error: BaseException, *, rows: int = 1) -> bool:
    """Whether an error of torch or ONNX Runtime says that memory ran out; neither has one type for it.

    Args:
        error: what was raised.
        rows: that were worked on at once. Above 1, ambiguous messages count too: fewer rows may fit.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    signs = (*_SIGNS, *(_AMBIGUOUS_SIGNS if rows > 1 else ()))
    return isinstance(error, Exception) and any(sign in str(error).lower() for sign in signs)


def _of_one_image(reason: str) -> str:
    """What to know if one image is too much; of a graph, how much ONNX Runtime asked for."""
    told, advice = "memory ran out with a batch of one image", "give the gate smaller images or more memory"
    if _OF_A_GRAPH not in reason:
        return f"{told}; {advice}"
    asked = _ASKED_FOR.search(reason)
    for_one = f", for which its graph asks for {int(asked[1]):,} bytes at once" if asked else ""
    return f"{told}{for_one}; {advice}, or mend the graph if it computes a tensor of an absurd size"


class Chunks:
    """Calls a function on at most `limit` rows at a time; the limit halves when memory runs out, down to one."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.halved_to: int | None = None

    def __call__(
        self, function: Callable[..., tuple[torch.Tensor, ...]], *rows: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Apply `function` to chunks of tensors that share their first dimension, and join what it returns.

        Raises:
            NoMemoryError: one row at a time is too much.
        """
        parts: list[tuple[torch.Tensor, ...]] = []
        start, total = 0, len(rows[0])
        while start < total or not parts:
            size = min(self.limit, total - start)
            chunk = rows if size == total else tuple(tensor[start : start + size] for tensor in rows)
            try:
                parts.append(function(*chunk))
            except Exception as error:
                if not is_out_of_memory(error, rows=size):
                    raise
                if size <= 1:
                    raise NoMemoryError(_of_one_image(str(error))) from error
            else:
                start += size
                continue
            del chunk
            self._halve(size)  # not before the exception is gone: its frames hold the chunk's tensors
        return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _halve(self, size: int) -> None:
        self.limit = self.halved_to = min(self.limit, size // 2)  # a call within this one may have halved it further
        give_back_freed_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
