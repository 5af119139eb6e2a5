"""What every format is loaded into."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch

from robustcheck.errors import CandidateError
from robustcheck.words import shortened

Takes: TypeAlias = tuple[int | None, ...]
"""The shape of an input, (N, …); None where any size will do, or where it is not known."""

_LONGEST = 300  # letters of a library's message; what was wrong often stands at its end
_IN_RUNTIME = re.compile(
    r"\s?/\S{1,99}/onnxruntime/core/\S{1,99}:\d+ [^(]{1,999}\((?:[^()]|\([^()]{,999}\)){,999}\)"
    r"(?: const)?(?: \[with [^]]{,999}\])? "
)
"""Where in ONNX Runtime's own code an error was raised: the file, the line, and the function with its types. All of it
is bounded, so that no hostile message takes long."""

ONLY_ASKS = "use an attack that only asks (square, nes, label_only)"
NO_GRADIENT_PASSES = "the candidate's scores do not depend differentiably on its input: it has no gradient"
NO_GRADIENT = (
    f"{NO_GRADIENT_PASSES}, like quantised networks and those with a step in numpy, behind detach(), inside "
    f"torch.no_grad(), or by argmax or a comparison; {ONLY_ASKS}, write that step in torch so that a gradient "
    "passes, or transfer from the float network"
)
"""Of a network that answers with its decision, or with anything else that no gradient passes."""


Forward: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""The network proper: input tensor (N, …) on the network's device to raw scores (N, K) or (N,)."""


@dataclass(frozen=True, kw_only=True)
class Redrawn:
    """A network that was built once more, under another seed, and holds the same weights."""

    forward: Forward
    sentence: str  # why neither can be judged, if they answer differently


@dataclass(frozen=True, kw_only=True)
class Network:
    """A loaded artefact."""

    forward: Forward
    device: torch.device
    twin: Forward | None = None  # a differentiable form of it, where it is none itself
    module: torch.nn.Module | None = None  # what this or `forward` calls, if it is a float32 module that can be copied
    no_gradients: str | None = None  # why it gives none; None if it does
    convolves_as_laid_out: bool = False  # in torch, in float32, as its inputs lie in memory
    precision: torch.dtype = torch.float32  # the coarsest that it works in; its scores may be wider
    has_mode: bool = True  # its file says what mode it is in; else it was set to evaluation mode after it was built
    in_training: Callable[[], str | None] = lambda: None  # what of it is in training mode by now, such as dropout
    quantised_by_batch: bool = False  # it has layers that quantise values by their range in the batch
    takes: Takes | None = None  # as far as it tells; what it is asked shows the rest
    redrawn: Redrawn | None = None  # the same built anew, if it holds other values then
    whole: bool = False  # the file of a state dict holds the network itself, and no other architecture is used
    sources: Mapping[Path, str] = field(default_factory=dict)  # code beside the policy that is part of it, by sha256
    notes: tuple[str, ...] = ()
    settle_on: Callable[[Sequence[torch.Tensor]], Network] | None = None
    """Tries inputs (batches of (N, …)), and returns the network to use; None if there is nothing left to try."""


def freeze(module: torch.nn.Module) -> None:
    """Weights need no gradients, only the image does: that saves a third of a step."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def in_dtype(forward: Forward, dtype: torch.dtype) -> Forward:
    """A network of another precision as one that takes float32."""
    return forward if dtype == torch.float32 else lambda inputs: forward(inputs.to(dtype))


def dtype_of(module: torch.nn.Module) -> torch.dtype:
    """The type of a module's first weights; float32 where it has none."""
    return next((weights.dtype for weights in module.parameters() if weights.is_floating_point()), torch.float32)


def first_line(error: BaseException) -> str:
    """The line of a library's message that says what is wrong: enough for a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # TorchScript begins with where it happened and ends with what.
    line = _IN_RUNTIME.sub(" ", lines[-1 if "TorchScript interpreter" in lines[0] else 0]).strip()
    return shortened(line, _LONGEST)


def rows(answer: object, count: int) -> torch.Tensor:
    """The scores (N, …) in what a network answered about so many images; (N, K) where no two axes are longer than 1.

    Raises:
        CandidateError: it is not one tensor with a row for each image.
    """
    if not isinstance(answer, torch.Tensor) or not answer.is_floating_point():
        found = answer.dtype if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise CandidateError(
            f"the candidate answers with {found}, not with one tensor of scores: have forward return the logits, "
            "a tensor of floats with a row for each image"
        )
    if answer.ndim < 2 and count == 1:  # networks that squeeze lose the batch's axis, too
        answer = answer.reshape(1, -1)
    if answer.ndim == 0 or len(answer) != count:
        raise CandidateError(
            f"the candidate answers {count} images with scores of shape {tuple(answer.shape)}; "
            "the first axis has to be the images'"
        )
    if answer.ndim == 1:
        return answer.unsqueeze(1)
    return answer.flatten(1) if sum(size != 1 for size in answer.shape[1:]) <= 1 else answer


def in_batches(forward: Forward, *, least: int, most: int | None, copies: bool = False) -> Forward:
    """A network that takes only some batch sizes, as one that takes any.

    Too many images are split; too few are joined by blank ones, or by copies of the last, whose scores are dropped.
    """

    def part(inputs: torch.Tensor) -> torch.Tensor:
        missing = max(0, least - len(inputs))
        size = (missing, *inputs.shape[1:])
        others = inputs[-1:].expand(size) if copies and len(inputs) else inputs.new_zeros(size)
        return rows(forward(torch.cat([inputs, others])), len(inputs) + missing)[: len(inputs)]

    def ask(inputs: torch.Tensor) -> torch.Tensor:
        size = most or max(1, len(inputs))
        return torch.cat([part(inputs[start : start + size]) for start in range(0, max(1, len(inputs)), size)])

    return ask
