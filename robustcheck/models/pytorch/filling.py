"""Puts the weights of a file into a network that was built for them, or says what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch.nn.parameter import is_lazy

from robustcheck.errors import CandidateError
from robustcheck.models.network import first_line
from robustcheck.models.pytorch.checkpoint import without_wrapping
from robustcheck.policy import ModelSpec
from robustcheck.words import brief

_MOST_NAMED = 3
_OTHER_NAMES = (
    "; transformers' save_pretrained gives weights other names than the network has: save the state_dict() of what "
    "from_pretrained makes from its folder"
)
_WHOLE = (torch.int64, torch.bool)  # types of plain Python numbers, not of quantised ones


def fill(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path, spec: ModelSpec) -> tuple[str, ...]:
    """Put weights into their places; what the reader of a report should know about it.

    Raises:
        CandidateError: they are not those of this network.
    """
    wanted = module.state_dict()
    given = without_wrapping(weights, wanted)
    weights = _renamed(module, given, wanted)
    missing, unexpected = _misfits(weights, wanted)
    reshaped = [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(wanted[name].shape)} in the architecture"
        for name in wanted
        if name in weights and not _fits(weights[name], wanted[name])
    ]
    found = [
        f"{len(names)} {kind}: {_some(names)}"
        for kind, names in (("missing", missing), ("not in it", unexpected), ("of another shape", reshaped))
        if names
    ]
    if found and (part := _part(weights, wanted)):
        beside = [name for name in weights if not name.startswith(part)]
        raise CandidateError(
            f"{path.name} holds the weights of {spec.architecture} under {brief(part)!r}, and beside them "
            f"{_some(beside)}; name the architecture that all of it belongs to, or save the state dict of that part "
            "alone"
        )
    if wanted and unexpected and not missing and not reshaped:
        raise CandidateError(
            f"{path.name} holds all weights of {spec.architecture}, but also {_some(unexpected)}, for which "
            "there is no place as it is built; build it with one, in a function beside the policy (docs/policy.md, "
            "'Networks of other packages'): leaving them out of the file may make another model"
        )
    if found:
        other_names = _OTHER_NAMES if type(module).__module__.startswith("transformers.") else ""
        arguments = f" with {spec.architecture_args}" if spec.architecture_args else ""
        raise CandidateError(
            f"the weights in {path.name} are not those of {spec.architecture}{arguments} ({'; '.join(found)}); "
            f"check model.architecture and architecture_args{other_names}"
        )
    if packed := [
        f"{name} ({_kind(weights[name])})" for name in wanted if name in weights and _packed(weights, wanted, name)
    ]:
        raise CandidateError(
            f"{path.name} holds {len(packed)} quantised weights where {spec.architecture} has floats: {_some(packed)}; "
            "without their scales they are other numbers: save the network as .pt2 or ONNX, or its weights as floats"
        )
    try:
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CandidateError(
            f"the weights in {path.name} do not go into {spec.architecture}: {first_line(error)}"
        ) from None
    stored = {
        (_kind(weights[name]), _kind(place))
        for name, place in wanted.items()
        if name in weights and place.is_floating_point() and weights[name].dtype != place.dtype
    }
    former, present = [name for name in given if name not in weights], [name for name in weights if name not in given]
    renamed = [f"torch takes {_some(former)} in the file for {_some(present)} of the network"] if former else []
    return (
        *renamed,
        *(f"its weights are stored as {kind}, but the network works in {works}" for kind, works in sorted(stored)),
    )


def _renamed(
    module: torch.nn.Module, weights: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights by the names that layers' own hooks give them, as when torch loads them.

    `parametrizations.weight_norm` takes the names of the older `weight_norm`. Hooks may do anything else, so they are
    asked only where names do not fit, and count only where more of them fit then.
    """
    if not any(_misfits(weights, wanted)):
        return weights
    renamed = dict(weights)
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        for hook in part._load_state_dict_pre_hooks.values():
            own = {name: value for name, value in renamed.items() if name.startswith(prefix)}
            others = {name: value for name, value in renamed.items() if name not in own}
            with suppress(Exception):
                hook(own, prefix, {}, True, [], [], [])
                renamed = {**others, **own}
    return min(weights, renamed, key=lambda some: sum(map(len, _misfits(some, wanted))))


def _misfits(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """The names that are missing, and those that are not wanted."""
    missing = [name for name in wanted if name not in weights and not name.endswith("num_batches_tracked")]
    return missing, [name for name in weights if name not in wanted]


def _packed(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], name: str) -> bool:
    """Whether a weight has few bits, which stand for other numbers, where a network has floats."""
    value = weights[name]
    narrow = value.element_size() == 1 if value.is_floating_point() else value.dtype not in _WHOLE
    return wanted[name].is_floating_point() and narrow


def _kind(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _fits(value: torch.Tensor, place: torch.Tensor) -> bool:
    """Whether weights are of the shape that is wanted; lazy layers take any."""
    return is_lazy(place) or value.shape == place.shape


def _part(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str | None:
    """The prefix under which everything that is wanted stands, among other things."""
    first = next(iter(wanted), "")
    for prefix in (name.removesuffix(first) for name in weights if name.endswith(f".{first}")):
        if all(prefix + name in weights and _fits(weights[prefix + name], place) for name, place in wanted.items()):
            return prefix
    return None


def _some(names: list[str]) -> str:
    return ", ".join(map(brief, names[:_MOST_NAMED])) + (", …" if len(names) > _MOST_NAMED else "")
