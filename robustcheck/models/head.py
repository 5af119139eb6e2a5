"""Reading a head: raw scores of any kind become logits (N, K), one for each label.

Softmax and sigmoid heads are read through the logarithm: the gradient of a loss on probabilities vanishes where the
network is sure of itself, that of the log-odds between labels does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch

from robustcheck.errors import CandidateError
from robustcheck.policy import ModelSpec

NO_ANSWER_NAME = "(no answer)"
NO_ANSWER = -1  # the decision on a sample whose scores are not finite

_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Head:
    """What the network's numbers mean."""

    labels: tuple[str, ...]
    binary: bool  # one score, for the second label
    probabilities: bool
    positive: int | None  # index of the label that is disease
    operating_point: float | None  # threshold on its probability; None: the highest score
    found: str  # "logits" or "probabilities", and how that is known

    def logits(self, raw: torch.Tensor) -> torch.Tensor:
        """Raw scores (N, K), or (N, 1) for a binary head, to float32 logits (N, K), K = len(labels)."""
        raw = raw.float()
        if self.probabilities:
            tiny = torch.finfo(torch.float32).tiny
            if self.binary:
                return torch.cat([(1 - raw).clamp_min(tiny).log(), raw.clamp_min(tiny).log()], dim=1)
            return raw.clamp_min(tiny).log()
        return torch.cat([torch.zeros_like(raw), raw], dim=1) if self.binary else raw

    @staticmethod
    def _threshold(probability: float) -> float:
        """As log-odds."""
        return log(probability) - log(1 - probability)

    def decide(self, logits: torch.Tensor) -> torch.Tensor:
        """Label indexes (N,) at the operating point; `NO_ANSWER` where a logit is not finite."""
        if self.operating_point is None:
            decision = logits.argmax(dim=1)
        else:
            assert self.positive is not None
            others = logits.clone()
            others[:, self.positive] = -torch.inf
            odds = logits[:, self.positive] - others.logsumexp(dim=1)
            decision = torch.where(odds >= self._threshold(self.operating_point), self.positive, others.argmax(dim=1))
        return torch.where(logits.isfinite().all(dim=1), decision, NO_ANSWER)

    def name(self, reading: int) -> str:
        """What a reading is called."""
        return NO_ANSWER_NAME if reading == NO_ANSWER else self.labels[reading]

    def is_positive(self, reading: int) -> bool:
        """Whether a reading has the positive label."""
        return reading == self.positive

    def at_operating_point(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) less what the operating point asks of the positive label: at 0 odds the decision turns."""
        if self.operating_point is None:
            return logits
        assert self.positive is not None
        shift = torch.zeros(logits.shape[1], device=logits.device)
        shift[self.positive] = self._threshold(self.operating_point)
        return logits - shift

    def positive_probability(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Probability (N,) of the positive label; None if the policy names none."""
        return None if self.positive is None else logits.softmax(dim=1)[:, self.positive]


def read_head(spec: ModelSpec, raw: torch.Tensor, beyond: Callable[[], torch.Tensor | None] = lambda: None) -> Head:
    """Find out what a network's raw scores (N, …) on the gate's own samples are.

    Args:
        spec: what the policy says.
        raw: on the samples.
        beyond: asks for scores (M, …) on inputs that no image is. The one logit of an unsure network may lie between 0
            and 1 on every sample, and leaves there; a probability does not.

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
    looks = _look_like_probabilities(raw, binary=spec.task == "binary")
    if looks and spec.task == "binary" and spec.output == "auto" and (far := beyond()) is not None:
        looks = _look_like_probabilities(far[far.isfinite().all(dim=1)], binary=True)
    if spec.output == "probabilities" and not looks:
        raise CandidateError(
            "model.output says probabilities, but the scores on the samples "
            f"range from {float(raw.min()):.3g} to {float(raw.max()):.3g}"
            + ("" if spec.task == "binary" else " or do not sum to 1")
            + "; say logits, or auto"
        )
    if spec.output == "logits" and looks and spec.task == "multiclass":
        raise CandidateError(
            f"model.output says logits, but the scores on all {len(raw)} samples lie between 0 and 1 and sum to 1, as "
            "probabilities do; say probabilities, or auto"
        )
    probabilities = looks if spec.output == "auto" else spec.output == "probabilities"
    kind = "probabilities" if probabilities else "logits"
    return Head(
        labels=spec.labels,
        binary=spec.task == "binary",
        probabilities=probabilities,
        positive=None if spec.positive is None else spec.labels.index(spec.positive),
        operating_point=spec.operating_point,
        found=f"{kind} ({f'told from {len(raw)} samples' if spec.output == 'auto' else 'as the policy says'})",
    )


def _check_shape(spec: ModelSpec, raw: torch.Tensor) -> None:
    shape, labels = tuple(raw.shape), len(spec.labels)
    if raw.ndim != 2:
        raise CandidateError(f"the candidate's scores have shape {shape}; (samples, labels) is needed")
    if spec.task == "binary" and shape[1] != 1:
        hint = "; did you mean task: multiclass?" if shape[1] == labels else ""
        raise CandidateError(f"a binary task has one score a sample; the candidate gives {shape[1]}{hint}")
    if spec.task == "multiclass" and shape[1] != labels:
        hint = "; did you mean task: binary?" if shape[1] == 1 and labels == 2 else ""
        raise CandidateError(
            f"the candidate gives {shape[1]} scores a sample, and model.labels names {labels} "
            f"({', '.join(spec.labels[:6])}{', …' if labels > 6 else ''}){hint}"
        )


def _look_like_probabilities(raw: torch.Tensor, *, binary: bool) -> bool:
    inside = bool(((raw >= 0) & (raw <= 1)).all())
    return inside and (binary or bool(((raw.sum(dim=1) - 1).abs() <= _SUM_TOLERANCE).all()))
