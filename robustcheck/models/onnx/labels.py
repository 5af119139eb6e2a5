"""Whether the label that a file answers beside its scores is the one with the highest score."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.head import of_labels
from robustcheck.models.network import Forward
from robustcheck.policy import ModelSpec
from robustcheck.words import printable

UNKNOWN = -1
"""The place of a label that the policy does not name."""
_MOST = 0.5  # of those compared: if more are read differently, scores are in another order, or are something else


def places_of(answer: Sequence[object], names: Sequence[str]) -> list[float]:
    """Which of the policy's labels each of a file's answers is, a name or a place; `UNKNOWN` where it is neither."""
    known = {name: float(place) for place, name in enumerate(names)}
    return [known.get(str(one), float(one if isinstance(one, int) else UNKNOWN)) for one in answer]


def differing(
    scores_of: Forward, labels_of: Forward, images: Sequence[torch.Tensor], spec: ModelSpec, *, output: str, label: str
) -> str | None:
    """What to note if labels and scores read samples differently; None if they do not, or if that cannot be known.

    Labels by number count from 0, or from 1 if 0 is not among them. At an operating point labels need not be those
    of the highest scores.

    Args:
        scores_of: the network; raw scores (N, …).
        labels_of: of the same inputs, the places (N, 1) of the labels that the file answers.
        images: batches of inputs (N, …), the gate's samples.
        spec: of the candidate, whose task has labels that compete.
        output: the name of the scores.
        label: that of the labels.

    Raises:
        CandidateError: most samples are read differently.
    """
    if spec.operating_point is not None:
        return None
    told = torch.cat([labels_of(some).flatten().cpu() for some in images])
    rows = [scores_of(some).flatten(1).cpu() for some in images]
    if {row.shape[1] for row in rows} != {len(spec.labels)}:
        return None
    raw = torch.cat(rows)
    meant = [one for one in (told, told - 1) if bool(((one >= 0) & (one < raw.shape[1])).all())]
    if len(told.unique()) == 1 or not meant:
        return None  # it may count something
    ordered = (raw, of_labels(raw, spec.scores))
    otherwise = torch.stack([_below_the_highest(scores, one) for scores in ordered for one in meant])
    count, number = int(otherwise.sum(dim=1).amin()), len(raw)
    if not count:
        return None
    apart = (
        f"its output {printable(label)} names another label than the one that {printable(output)} is highest for, on "
        f"{count} of {number} samples that were compared"
    )
    if count <= _MOST * number:
        return f"{apart}: what is judged is {printable(output)}"
    raise CandidateError(
        f"{apart}; give the order of its scores in model.scores (docs/onnx.md), or export the scores that the label is "
        "read from"
    )


def _below_the_highest(scores: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Which rows (N,) of scores (N, K) are higher for another label than the one answered; a tie is not."""
    return scores.gather(1, told.long()[:, None])[:, 0] < scores.amax(dim=1)
