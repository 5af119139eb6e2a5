"""Checkpoints: which of the things that a training script saved are the weights to judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from robustcheck.errors import CandidateError
from robustcheck.words import listed, shown

Weights: TypeAlias = torch.nn.Module | Mapping[str, torch.Tensor]
"""A whole network, which only a trusted file has, or names to tensors."""

_NEAR = 2  # keys that lead to weights; deeper they count only if they are the architecture's
_DEEPEST = 6  # such as `callbacks.StochasticWeightAveraging.average_model_state` of Lightning
_TRAINING = ("opt", "lr_scheduler", "scheduler", "loops")  # how keys begin under which trainers keep their own states
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "grads")  # of optimisers, by names of weights
_COUNT = "n_averaged"  # of what torch's AveragedModel has averaged, beside the network's own weights
_PACKED = "_packed_params"  # of layers whose weights are quantised


def weights_in(content: Any, said: str | None = None) -> dict[str, Weights]:
    """All that may be a network's weights, by the keys that lead to it, joined by dots; "" for the file itself.

    Args:
        content: all of the file.
        said: `model.weights`, which may also lead where else nothing is searched.
    """
    found = dict(_found(content, (), set()))
    if said is not None and said not in found:
        found.update((said, weights) for weights in _at(content, said) if _are_weights(weights))
    return found


def _found(content: Any, keys: tuple[str, ...], seen: set[tuple[int, int]]) -> Iterator[tuple[str, Weights]]:
    if _are_weights(content):
        yield ".".join(keys), content
        return
    for value, led in _inside(content, keys, seen):
        yield from _found(value, led, seen)


def _inside(content: Any, keys: tuple[str, ...], seen: set[tuple[int, int]]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """What a dictionary holds that may have weights in it, and the keys that lead there.

    One that has many keys leading to it, or holds itself, is searched once at each depth: a small file can hold
    thousands of keys for one dictionary of as many.
    """
    place = (id(content), len(keys))
    if isinstance(content, Mapping) and len(keys) < _DEEPEST and place not in seen:
        seen.add(place)
        for key, value in content.items():
            if not str(key).lower().startswith(_TRAINING) and key not in _MOMENTS:
                yield value, (*keys, str(key))


def _at(content: Any, path: str) -> Iterator[Any]:
    """What lies under keys with dots between, some of which may have dots themselves, or be places in a list."""
    items = content.items() if isinstance(content, Mapping) else enumerate(content) if _is_list(content) else ()
    for key, value in items:
        if str(key) == path:
            yield value
        elif path.startswith(f"{key}."):
            yield from _at(value, path.removeprefix(f"{key}."))


def lists_beside(content: Any, wanted: Sequence[torch.Tensor]) -> Iterator[str]:
    """The keys under which a list has a tensor of the shape of each parameter, in order, as averages may be kept.

    Args:
        content: all of the file.
        wanted: the parameters of the architecture.
    """
    shapes = [parameter.shape for parameter in wanted]
    return _lists(content, shapes, (), set()) if shapes else iter(())


def _lists(
    content: Any, shapes: Sequence[torch.Size], keys: tuple[str, ...], seen: set[tuple[int, int]]
) -> Iterator[str]:
    if _is_list(content) and len(content) == len(shapes):
        if [getattr(one, "shape", None) for one in content] == shapes:
            yield ".".join(keys)
        return
    for value, led in _inside(content, keys, seen):
        yield from _lists(value, shapes, led, seen)


def _is_list(content: Any) -> bool:
    return isinstance(content, (list, tuple))


def _are_weights(content: Any) -> bool:
    return isinstance(content, torch.nn.Module) or _is_state_dict(content)


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items())
    )


def chosen(
    found: Mapping[str, Weights], said: str | None, wanted: Mapping[str, torch.Tensor], content: Any, path: Path
) -> str:
    """Under which key the weights to judge are.

    If the policy does not say, weights that have nothing in common with the architecture, such as those of a second
    network or a loss, do not count beside those that do.

    Args:
        found: by `weights_in`.
        said: `model.weights`.
        wanted: the weights of the architecture; none if there is no architecture.
        content: all of the file.
        path: of the file.

    Raises:
        CandidateError: there are none, none under that key, or several.
    """
    if said is not None:
        if said in found:
            return said
        hint = "the file is itself a state dict: leave it out" if "" in found else f"there are {_told(found, content)}"
        raise CandidateError(f"{path.name} has no weights under {said!r}, which model.weights asks for; {hint}")
    if not found:
        raise CandidateError(_none_in(content, path))
    near = [key for key in found if key.count(".") < _NEAR] or list(found)
    fitting = [key for key, weights in found.items() if _has_any_of(weights, wanted)] or near
    if len(fitting) > 1:
        raise CandidateError(
            f"{path.name} holds weights under {listed(map(shown, fitting))}; name the one to judge in model.weights"
        )
    return fitting[0]


def _none_in(content: Any, path: Path) -> str:
    """Why a file without any state dict is not judged."""
    if not isinstance(content, Mapping):
        return holds_other(content, path)
    for under in (content, *(one for one in content.values() if isinstance(one, Mapping))):
        others = [name for name, value in under.items() if not isinstance(value, torch.Tensor)]
        if 0 < 2 * len(others) < len(under):  # nearly one
            name = next((name for name in others if _PACKED in str(name)), others[0])
            cure = (
                "quantised weights, which are packed with their scales: save the network as ONNX or .ts"
                if _PACKED in str(name)
                else "not a tensor: leave it out when you save the state dict"
            )
            return (
                f"{path.name} would hold a state dict, but {shown(str(name))} ({type(under[name]).__name__}) is {cure}"
            )
    return f"{path.name} holds no state dict (names to tensors), but {_told({}, content)}"


def holds_other(content: Any, path: Path) -> str:
    """Why a file is not judged that holds an object of another class than a network's, or a collection's."""
    return (
        f"{path.name} holds no state dict (names to tensors), but {type(content).__name__}; save the state_dict() of "
        "the network in it (for a Learner of fastai: learn.model.state_dict())"
    )


def _told(found: Mapping[str, Weights], content: Any) -> str:
    if found:
        return f"weights under {listed(map(shown, found))}"
    if isinstance(content, Mapping):
        return f"the keys {listed(shown(str(key)) for key in content)}"
    return type(content).__name__


def _has_any_of(weights: Weights, wanted: Mapping[str, torch.Tensor]) -> bool:
    return isinstance(weights, torch.nn.Module) or not wanted.keys().isdisjoint(without_wrapping(weights, wanted))


def without_wrapping(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The weights without prefixes of wrappers (`module.` of DataParallel, `_orig_mod.` of compile, …) and counts.

    Args:
        weights: a state dict.
        wanted: the architecture's own names.
    """
    own = dict(weights)
    if _COUNT not in wanted and all(name.startswith("module.") for name in weights if name != _COUNT):
        own.pop(_COUNT, None)
    while own and not any(name in wanted for name in own):
        prefix = next(iter(own)).partition(".")[0] + "."
        if any(not name.startswith(prefix) or name == prefix for name in own):
            break
        own = {name.removeprefix(prefix): value for name, value in own.items()}
    return own
