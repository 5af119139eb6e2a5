"""The scores in the answer of a torch network: a tensor, a tuple, a dictionary, or a class with fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from robustcheck.errors import CandidateError
from robustcheck.words import listed


class Answering(torch.nn.Module):
    """A network that answers with its scores alone."""

    def __init__(self, network: torch.nn.Module, wanted: str | None) -> None:
        super().__init__()
        self.network, self.wanted = network, wanted

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Its answer, without what is not scores."""
        scores: torch.Tensor = scores_in(self.network(inputs), self.wanted)
        return scores


def scores_in(answer: Any, wanted: str | None) -> Any:
    """The output that has the scores, of an answer with one or more; `network.rows` sees whether it has.

    Args:
        answer: a network's.
        wanted: `model.output_name`: a dictionary's key, a named tuple's or dataclass's field, or a place in a tuple,
            from 0.

    Raises:
        CandidateError: there is none of that name, or nothing says which of several it is.
    """
    outputs = _outputs(answer)
    if outputs is None:
        if wanted is not None:
            raise CandidateError(
                f"model.output_name asks for {wanted!r}, but the candidate has one output and no names"
            )
        return answer
    if wanted is not None:
        if wanted not in outputs:
            raise CandidateError(
                f"the candidate has no output {wanted!r}, which model.output_name asks for; it has {_told(outputs)}"
            )
        return outputs[wanted]
    numbers = [output for output in outputs.values() if isinstance(output, torch.Tensor) and output.is_floating_point()]
    found = numbers or list(outputs.values())
    if len(found) > 1 and not numbers:
        raise CandidateError(
            f"the candidate has {len(outputs)} outputs ({_told(outputs)}), and none of them is a tensor of scores: "
            "have forward return the logits, a row for each image; a detector, which answers with boxes, is not judged"
        )
    if len(found) != 1:
        raise CandidateError(
            f"the candidate has {len(outputs)} outputs ({_told(outputs)}); name the one that has the "
            "scores in model.output_name"
        )
    return found[0]


def _outputs(answer: Any) -> dict[str, Any] | None:
    """The outputs by name; None if the answer is no container."""
    if isinstance(answer, Mapping):
        return {str(name): output for name, output in answer.items()}
    if isinstance(answer, (tuple, list)):
        names = getattr(answer, "_fields", range(len(answer)))
        return {str(name): output for name, output in zip(names, answer, strict=True)}
    if is_dataclass(answer) and not isinstance(answer, type):
        return {field.name: getattr(answer, field.name) for field in fields(answer)}
    return None


def _told(outputs: Mapping[str, Any]) -> str:
    return listed(f"{name} ({_kind(output)})" for name, output in outputs.items())


def _kind(output: Any) -> str:
    if not isinstance(output, torch.Tensor):
        return type(output).__name__
    return " ".join([str(output.dtype).removeprefix("torch."), "×".join(map(str, output.shape))]).strip()
