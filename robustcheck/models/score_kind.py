"""What a network's raw scores are: logits or probabilities, and so which head reads them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.head import Head, of_labels
from robustcheck.models.multilabel_head import AnyHead, FindingsHead
from robustcheck.policy import ModelSpec
from robustcheck.words import plural

_SUM_TOLERANCE = 1e-3
_ROUNDED_SUM_TOLERANCE = 0.05  # ten labels in steps of 1/127 sum to 1 ± .04
_ROUNDED_LABEL = 1 / 500  # of each of many labels in steps of 1/255, half of one may be lost
_SLACK = 1e-5  # sums of float32 weights may leave [0, 1] by so much
_END = 0.01  # a probability this near to 0 or 1 is at an end
_GROWN = 100.0  # inputs that are 1,000 times as bright give logits about as much larger, and probabilities none
_UNLESS_TOLD = 0.5  # the operating point of findings
_OTHERWISE = "wrap a network that gives other scores (docs/policy.md, 'Scores that are not the labels')"
_OR_FEATURES = "or, if these are features, put the head on (docs/policy.md, 'Scores that are not the labels')"


def read_head(spec: ModelSpec, raw: torch.Tensor, beyond: Callable[[], torch.Tensor | None] = lambda: None) -> AnyHead:
    """Find out what a network's raw scores (N, …) on the gate's own samples are.

    Args:
        spec: what the policy says.
        raw: on the samples, before the policy chooses some of the scores.
        beyond: asks for scores (M, …) on inputs that are no images; None if it takes none. The logits of an unsure
            network may lie between 0 and 1 on every sample, and leave there; probabilities do not. Those of a softmax
            are known by their sum, unless they are rounded.

    Raises:
        CandidateError: their shape or values do not fit the policy's task, labels or output.
    """
    _check_shape(spec, raw)
    whole, raw = raw, of_labels(raw, spec.scores)
    bad = (~raw.isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise CandidateError(
            f"the candidate gives NaN or infinite scores on {len(bad)} of {len(raw)} unattacked samples "
            f"(first: number {int(bad[0])}); check the weights and model.preprocess"
        )
    raw, competing = raw.float(), spec.task == "multiclass"
    looks = _look_like_probabilities(raw, lambda: _of_labels(beyond(), spec), competing=competing)
    if looks is None and competing and spec.scores is not None:  # of a softmax all scores sum to 1, and some do not
        looks = _look_like_probabilities(whole.float(), beyond, competing=True) or None
    if looks is None and not competing and spec.output == "auto" and _at_both_ends(raw):
        looks = True
    _check_output(spec, raw, looks)
    if spec.output == "auto" and competing and spec.operating_point and looks is False and (raw >= -_SLACK).all():
        _check_sign(raw, _of_labels(beyond(), spec))
    # Of labels that compete the highest score decides, whatever the scores are.
    probabilities = bool(looks) if spec.output == "auto" else spec.output != "logits"
    kind = "probabilities" if probabilities else "logits"
    known = f"inferred from {plural(len(raw), 'sample')}" if spec.output == "auto" else "as the policy says"
    if looks is False and probabilities:
        known += "; on far brighter inputs they leave 0 to 1"
    if probabilities and competing and not _sum_to_1(raw, _rounded(raw)):
        known += "; they do not sum to 1, and are divided by their sum"
    found = f"{kind} ({known})"
    positive = None if spec.positive is None else spec.labels.index(spec.positive)
    points = spec.operating_point
    if spec.task == "multilabel":
        points = points or (_UNLESS_TOLD,)
        return FindingsHead(
            labels=spec.labels,
            outputs_probabilities=probabilities,
            positive=positive,
            operating_point=points * len(spec.labels) if len(points) == 1 else points,
            scores=spec.scores,
            found=found,
        )
    return Head(
        labels=spec.labels,
        binary=spec.task == "binary",
        outputs_probabilities=probabilities,
        positive=positive,
        operating_point=points[0] if points else None,
        scores=spec.scores,
        found=found,
    )


def _of_labels(raw: torch.Tensor | None, spec: ModelSpec) -> torch.Tensor | None:
    return None if raw is None else of_labels(raw, spec.scores)


def _check_shape(spec: ModelSpec, raw: torch.Tensor) -> None:
    shape, labels = tuple(raw.shape), len(spec.labels)
    if raw.ndim != 2:
        hint = ": a map of scores (segmentation) is not supported, but what is read from it for the whole image is"
        raise CandidateError(
            f"the candidate's scores have shape {shape}; (samples, labels) is needed{hint if raw.ndim > 3 else ''}"
        )
    if spec.scores is not None:
        if (last := max(spec.scores)) >= shape[1]:
            raise CandidateError(
                f"model.scores names place {last}, but the candidate gives {shape[1]} scores per sample, from 0"
            )
        return  # a policy's own checks have seen that they are as many as the labels take
    if spec.task == "binary" and shape[1] != 1:
        hint = f"give its place in model.scores, {_OR_FEATURES}"
        if shape[1] == labels:
            hint = "did you mean task: multiclass?"
        raise CandidateError(f"a binary task has one score per sample; the candidate gives {shape[1]}; {hint}")
    if spec.task != "binary" and shape[1] != labels:
        hint = _OTHERWISE
        if shape[1] == 1 and labels == 2:
            hint = "did you mean task: binary?"
        elif shape[1] > labels:
            hint = f"give the places of the labels' scores, from 0, in model.scores, {_OR_FEATURES}"
        raise CandidateError(
            f"the candidate gives {shape[1]} scores per sample, but model.labels names {labels} "
            f"({', '.join(spec.labels[:6])}{', …' if labels > 6 else ''}); {hint}"
        )


def _check_output(spec: ModelSpec, raw: torch.Tensor, looks: bool | None) -> None:
    """Refuse scores that are not what the policy says, or whose kind remains unclear."""
    competing = spec.task == "multiclass"
    if spec.output == "auto" and looks is None and competing and spec.operating_point:
        raise CandidateError(
            f"the scores on all {len(raw)} samples lie between 0 and 1 and do not sum to 1, so it is unclear what "
            "model.operating_point is a threshold on; set model.output: probabilities (they are divided by their sum) "
            "or logits"
        )
    if spec.output == "auto" and looks is None and not competing:
        raise CandidateError(
            f"the scores on all {len(raw)} samples lie between 0 and 1, and far brighter inputs do not show whether "
            "they have to, so it is unclear what they are; set model.output: probabilities if the network ends "
            "in a sigmoid, or else logits"
        )
    if spec.output == "probabilities" and not _inside(raw):
        raise CandidateError(
            "model.output says probabilities, but the scores on the samples "
            f"range from {float(raw.min()):.3g} to {float(raw.max()):.3g}; set logits, or auto"
        )
    if spec.output == "logits" and looks:
        raise CandidateError(
            f"model.output says logits, but the scores on all {len(raw)} samples lie between 0 and 1 and "
            f"{'sum to 1' if competing else 'stay there on far brighter inputs'}, as probabilities do; "
            "set probabilities, or auto"
        )


def _check_sign(raw: torch.Tensor, far: torch.Tensor | None) -> None:
    """Refuse scores, none of them negative, that may be weighted probabilities.

    The logits of labels that compete take either sign.
    """
    if far is not None:
        far = far[far.isfinite().all(dim=1)].float()
        if bool((far < -_SLACK).any()) or float(far.amax() if len(far) else 0) > _GROWN * float(raw.amax()):
            return
    raise CandidateError(
        f"the scores on all {len(raw)} samples are never negative and do not sum to 1, so it is unclear what "
        "model.operating_point is a threshold on; set model.output: logits, or, if they are probabilities that "
        "were multiplied by something, have the network divide them by their sum (docs/policy.md, 'Scores that "
        "are not the labels')"
    )


def _look_like_probabilities(
    raw: torch.Tensor, beyond: Callable[[], torch.Tensor | None], *, competing: bool
) -> bool | None:
    """Whether scores are probabilities; None if they may be either."""
    if not _inside(raw):
        return False
    if competing and _sum_to_1(raw, _SUM_TOLERANCE):
        return True
    far = beyond()
    if far is None or not len(far := far[far.isfinite().all(dim=1)]):
        return None
    scores = torch.cat([raw, far.float()])
    if not _inside(scores):
        return False
    if competing:
        return True if _sum_to_1(scores, _rounded(scores)) else None
    # A network that normalises brightness away also keeps its logits where they are, but not at an end.
    at_an_end = bool(((scores <= _END) | (scores >= 1 - _END)).any())
    return True if at_an_end and bool((scores != scores[0]).any()) else None


def _inside(scores: torch.Tensor) -> bool:
    return bool(((scores >= -_SLACK) & (scores <= 1 + _SLACK)).all())


def _at_both_ends(scores: torch.Tensor) -> bool:
    """Whether some are near to 0, others near to 1, and none beyond: as from a sure sigmoid, and never as logits."""
    return float(scores.min()) <= _END and float(scores.max()) >= 1 - _END


def _rounded(scores: torch.Tensor) -> float:
    """By how much the sums of quantised probabilities (N, K) may miss 1."""
    return max(_ROUNDED_SUM_TOLERANCE, _ROUNDED_LABEL * scores.shape[1])


def _sum_to_1(scores: torch.Tensor, tolerance: float) -> bool:
    return bool(((scores.sum(dim=1) - 1).abs() <= tolerance).all())
