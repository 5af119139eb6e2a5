"""Checkpoints: which of the things that a training script saved are the weights to judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from robustcheck.errors import CandidateError
from robustcheck.words import listed, shown

Weights: TypeAlias = torch.nn.Module | Mapping[str, torch.Tensor]
"""A whole network, which only a trusted file has, or names to tensors."""

_DEEPEST = 2  # keys that lead to weights; deeper lie the states of optimisers
_COUNT = "n_averaged"  # of what torch's AveragedModel has averaged, beside the network's own weights


def weights_in(content: Any) -> dict[str, Weights]:
    """All that may be a network's weights, by the keys that lead to it, with dots between; of the file itself none."""
    return dict(_found(content, ()))


def _found(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Weights]]:
    if isinstance(content, torch.nn.Module) or _is_state_dict(content):
        yield ".".join(keys), content
    elif isinstance(content, Mapping) and len(keys) < _DEEPEST:
        for key, value in content.items():
            yield from _found(value, (*keys, str(key)))


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

    Where nobody says, those that have nothing in common with the architecture, as of a second network or a loss, do
    not count beside those that have.

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
        hint = "it is a state dict itself: leave it out" if "" in found else f"there are {_told(found, content)}"
        raise CandidateError(f"{path.name} has no weights under {said!r}, which model.weights asks for; {hint}")
    if not found:
        raise CandidateError(f"{path.name} holds no state dict (names to tensors), but {_told(found, content)}")
    fitting = [key for key, weights in found.items() if _has_any_of(weights, wanted)] or list(found)
    if len(fitting) > 1:
        raise CandidateError(
            f"{path.name} holds weights under {listed(map(shown, fitting))}; say model.weights: which of them is judged"
        )
    return fitting[0]


def _told(found: Mapping[str, Weights], content: Any) -> str:
    if found:
        return f"weights under {listed(map(shown, found))}"
    if isinstance(content, Mapping):
        return f"the keys {listed(shown(str(key)) for key in content)}"
    return type(content).__name__


def _has_any_of(weights: Weights, wanted: Mapping[str, torch.Tensor]) -> bool:
    return isinstance(weights, torch.nn.Module) or not wanted.keys().isdisjoint(without_wrapping(weights, wanted))


def without_wrapping(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Less what a wrapper gave every name, `module.` (DataParallel), `_orig_mod.` (compile), `model.`, …, and counted.

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
