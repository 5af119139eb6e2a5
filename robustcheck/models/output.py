"""What a network's raw scores are: logits or probabilities, and so which head reads them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.findings import AnyHead, FindingsHead
from robustcheck.models.head import Head
from robustcheck.policy import ModelSpec

_SUM_TOLERANCE = 1e-3
_UNLESS_TOLD = 0.5  # the operating point of findings


def read_head(spec: ModelSpec, raw: torch.Tensor, beyond: Callable[[], torch.Tensor | None] = lambda: None) -> AnyHead:
    """Find out what a network's raw scores (N, …) on the gate's own samples are.

    Args:
        spec: what the policy says.
        raw: on the samples.
        beyond: asks for scores (M, …) on inputs that no image is. The logits of an unsure network may lie between 0
            and 1 on every sample, and leave there; probabilities do not. Those of a softmax are told by their sum.

    Raises:
        CandidateError: their shape or values do not fit the policy's task, labels or output.
    """
    _check_shape(spec, raw)
    bad = (~raw.isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise CandidateError(
            f"the candidate gives NaN or infinite scores on {len(bad)} of {len(raw)} unattacked samples "
            f"(first: number {int(bad[0])}); check the weights and model.preprocess"
        )
    competing = spec.task == "multiclass"
    looks = _look_like_probabilities(raw, competing=competing)
    if looks and not competing and spec.output == "auto" and (far := beyond()) is not None:
        looks = _look_like_probabilities(far[far.isfinite().all(dim=1)], competing=False)
    if spec.output == "probabilities" and not looks:
        raise CandidateError(
            "model.output says probabilities, but the scores on the samples "
            f"range from {float(raw.min()):.3g} to {float(raw.max()):.3g}"
            + (" or do not sum to 1" if competing else "")
            + "; say logits, or auto"
        )
    if spec.output == "logits" and looks and competing:
        raise CandidateError(
            f"model.output says logits, but the scores on all {len(raw)} samples lie between 0 and 1 and sum to 1, as "
            "probabilities do; say probabilities, or auto"
        )
    probabilities = looks if spec.output == "auto" else spec.output == "probabilities"
    kind = "probabilities" if probabilities else "logits"
    found = f"{kind} ({f'told from {len(raw)} samples' if spec.output == 'auto' else 'as the policy says'})"
    positive = None if spec.positive is None else spec.labels.index(spec.positive)
    points = spec.operating_point
    if spec.task == "multilabel":
        points = points or (_UNLESS_TOLD,)
        return FindingsHead(
            labels=spec.labels,
            probabilities=probabilities,
            positive=positive,
            operating_point=points * len(spec.labels) if len(points) == 1 else points,
            found=found,
        )
    return Head(
        labels=spec.labels,
        binary=spec.task == "binary",
        probabilities=probabilities,
        positive=positive,
        operating_point=points[0] if points else None,
        found=found,
    )


def _check_shape(spec: ModelSpec, raw: torch.Tensor) -> None:
    shape, labels = tuple(raw.shape), len(spec.labels)
    if raw.ndim != 2:
        raise CandidateError(f"the candidate's scores have shape {shape}; (samples, labels) is needed")
    if spec.task == "binary" and shape[1] != 1:
        hint = "; did you mean task: multiclass?" if shape[1] == labels else ""
        raise CandidateError(f"a binary task has one score a sample; the candidate gives {shape[1]}{hint}")
    if spec.task != "binary" and shape[1] != labels:
        hint = "; did you mean task: binary?" if shape[1] == 1 and labels == 2 else ""
        raise CandidateError(
            f"the candidate gives {shape[1]} scores a sample, and model.labels names {labels} "
            f"({', '.join(spec.labels[:6])}{', …' if labels > 6 else ''}){hint}"
        )


def _look_like_probabilities(raw: torch.Tensor, *, competing: bool) -> bool:
    inside = bool(((raw >= 0) & (raw <= 1)).all())
    return inside and (not competing or bool(((raw.sum(dim=1) - 1).abs() <= _SUM_TOLERANCE).all()))
