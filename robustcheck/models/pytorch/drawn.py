"""Values that a network draws when it is built, and that the file of its weights does not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from robustcheck.models.pytorch.unregistered import inside, unregistered

_REGISTERED = ("_parameters", "_buffers")
_NUMBERS = "biufc"  # kinds of NumPy's arrays
_NO_VALUES = ("_modules", *_REGISTERED)


def unsaved(module: torch.nn.Module) -> dict[str, torch.Tensor | np.ndarray[Any, Any]]:
    """Tensors and arrays that a network holds, and its state dict does not, by the names that its code has for them.

    They may be buffers that are not persistent, plain attributes, or weights of layers that torch does not see.
    """
    saved = module.state_dict().keys()
    return {where: value for where, value in _held(module) if where not in saved}


def first_drawn(module: torch.nn.Module, other: torch.nn.Module) -> str | None:
    """The first of a network's unsaved values that is another one in a network that was built under another seed.

    Both hold the same weights, so that what is computed from these, or is the same memory, is the same.
    """
    others = unsaved(other)
    for where, value in unsaved(module).items():
        if where in others and _bytes(value) != _bytes(others[where]):
            return where
    return None


def _held(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    roots: Mapping[str, torch.nn.Module] = {"": module, **unregistered(module)}
    for root, held in roots.items():
        for name, part in held.named_modules(prefix=root):
            for attribute, value in _attributes(part):
                for where, found in inside(value, f"{name}.{attribute}".removeprefix(".")):
                    if isinstance(found, (torch.Tensor, np.ndarray)):
                        yield where, found


def _attributes(part: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    for kind in _REGISTERED:
        yield from getattr(part, kind).items()
    yield from ((name, value) for name, value in vars(part).items() if name not in _NO_VALUES)


def _bytes(value: torch.Tensor | np.ndarray[Any, Any]) -> bytes | None:
    """All of the numbers, bit by bit, because some may be NaN; None if it has none that can be compared."""
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype.kind in _NUMBERS else None
    if is_lazy(value) or value.is_meta or value.is_quantized or value.layout != torch.strided:
        return None
    with suppress(Exception):  # kinds of tensors that others have made may do anything
        flat = value.detach().cpu().contiguous().flatten()
        return flat.view(torch.uint8).numpy().tobytes()
    return None
