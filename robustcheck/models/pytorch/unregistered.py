"""Layers that a network holds, but not as its own: torch neither loads their weights nor sets their mode."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

_DEEPEST = 4  # lists, tuples and dictionaries in one another
_PLAIN = (list, tuple, set, dict, OrderedDict)


def unregistered(module: nn.Module) -> dict[str, nn.Module]:
    """The modules that lie in attributes without being registered, as those in a plain list are.

    Returns:
        The modules by the names that the network's own code has for them, such as `nets[0]`.
    """
    own = set(module.modules())
    return {
        where: held
        for name, part in module.named_modules()
        for attribute, value in vars(part).items()
        if attribute != "_modules"
        for where, held in inside(value, f"{name}.{attribute}".removeprefix("."))
        if isinstance(held, nn.Module) and held not in own
    }


def first_in_training(held: Mapping[str, nn.Module]) -> str | None:
    """The first layer that training mode changes, and in it, of modules by name; None: there is none.

    The network itself has no name.
    """
    for where, module in held.items():
        for name, layer in module.named_modules(prefix=where):
            if layer.training and (isinstance(layer, _BatchNorm) or (isinstance(layer, _DropoutNd) and layer.p > 0)):
                return str(name) or type(layer).__name__
    return None


def unregistered_note(held: Mapping[str, nn.Module]) -> str | None:
    """What the reader of a report should know of their weights; None if they have none."""
    first = next((where for where, module in held.items() if next(module.parameters(), None) is not None), None)
    if first is None:
        return None
    return f"the weights of {first} come from its code, not from the file: torch does not see them there"


def inside(value: Any, where: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """What an attribute holds, by name: itself, or what lies in its lists, tuples, sets and dictionaries."""
    if depth < _DEEPEST and type(value) in _PLAIN:  # others may do anything when they are searched
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from inside(item, f"{where}[{key!r}]", depth + 1)
    else:
        yield where, value
