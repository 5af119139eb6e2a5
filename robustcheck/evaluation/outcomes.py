"""What became of a gate's samples: readings, scores and outcomes, from the counterexamples that are known."""

from __future__ import annotations

from collections.abc import Container, Mapping, Set
from dataclasses import replace

import numpy as np

from robustcheck.data.multilabel import present
from robustcheck.evaluation.metrics.readings import Readings
from robustcheck.evaluation.search.adjudication import more_adverse, more_adverse_of_findings
from robustcheck.evaluation.search.found import Found
from robustcheck.evaluation.search.ledger import Entry
from robustcheck.evaluation.setting import Setting
from robustcheck.models.head import NO_ANSWER
from robustcheck.policy import Gate
from robustcheck.results import Evidence, Metric, Outcome
from robustcheck.results.agreed import EXAMPLES_A_GATE

_NONE_OF_THE_KIND = "none of them is of the kind that it is about"
_NOT_KNOWN = "it is not tracked for this candidate (such as probabilities of one that draws)"
_UNDEFINED = {
    "balanced_accuracy": "it needs samples of every label",
    "ppv": "it needs samples with and without the finding, some of which are read as positive",
    "npv": "it needs samples with and without the finding, some of which are read as negative",
}


def keep_examples(gate: Gate, setting: Setting, broken: dict[int, Entry]) -> None:
    """Write the clean images of a few of a gate's own counterexamples beside them."""
    for sample in sorted(sample for sample, entry in broken.items() if entry.found_by == gate.id)[:EXAMPLES_A_GATE]:
        setting.images.clean(sample, setting.samples.image(sample))


def most_adverse(setting: Setting, verified: list[dict[int, float]], broken: dict[int, Entry]) -> np.ndarray | None:
    """Probability (N,) of the positive label at each sample's most adverse verified image; the clean one is one."""
    if setting.positive_probabilities is None:
        return None
    probabilities = setting.positive_probabilities.numpy().astype(np.float64)
    counterexamples = {sample: entry.score for sample, entry in broken.items() if entry.score is not None}
    for search in (*verified, counterexamples):
        probabilities = scores_with(setting, probabilities, search)
    return probabilities


def scores_with(setting: Setting, probabilities: np.ndarray, verified: Mapping[int, float]) -> np.ndarray:
    """Probabilities (N,) of the positive label if these of some samples are known too."""
    worse = probabilities.copy()
    for sample, score in verified.items():
        positive = setting.candidate.head.is_positive(int(setting.labels[sample]))
        worse[sample] = more_adverse(worse[sample], score, positive=positive)
    return worse


def most_adverse_of_findings(
    setting: Setting, verified: list[dict[int, np.ndarray]], broken: dict[int, Entry]
) -> np.ndarray | None:
    """Most adverse probabilities (N, K) of each of several findings; None for a task that has one label per image."""
    head = setting.candidate.head
    if not head.multilabel:
        return None
    probabilities = head.probabilities(setting.logits).cpu().numpy().astype(np.float64)
    for search in (*verified, finding_probabilities_of(broken)):
        probabilities = finding_probabilities_with(setting, probabilities, search)
    return probabilities


def finding_probabilities_of(broken: Mapping[int, Entry]) -> dict[int, np.ndarray]:
    """The probabilities (K,) of counterexamples, if they are known."""
    return {
        sample: entry.finding_probabilities
        for sample, entry in broken.items()
        if entry.finding_probabilities is not None and np.isfinite(entry.finding_probabilities).all()
    }


def finding_probabilities_with(
    setting: Setting, probabilities: np.ndarray, verified: Mapping[int, np.ndarray]
) -> np.ndarray:
    """Probabilities (N, K) of each finding if these (K,) of some samples are known too."""
    worse = probabilities.copy()
    there = present(setting.labels.numpy(), probabilities.shape[1])
    for sample, found in verified.items():
        worse[sample] = more_adverse_of_findings(worse[sample], found, there[sample])
    return worse


def readings(
    setting: Setting,
    broken: dict[int, Entry],
    positive_probabilities: np.ndarray | None,
    finding_probabilities: np.ndarray | None = None,
) -> Readings:
    """How all samples are read, given these counterexamples."""
    after = setting.decisions.numpy().copy()
    for sample, entry in broken.items():
        after[sample] = entry.decision
    head = setting.candidate.head
    read = Readings(
        labels=setting.labels.numpy(),
        before=setting.decisions.numpy(),
        after=after,
        positive_probabilities=positive_probabilities,
        finding_probabilities=finding_probabilities,
        positive=head.positive,
        finding_count=len(head.labels) if head.multilabel else None,
        groups=setting.samples.groups,
        prevalence=setting.prevalence,
    )
    if positive_probabilities is None:
        return read
    # No answer has no score: as wrong as can be.
    worst = np.where(read.positives, 0.0, 1.0)
    return replace(read, positive_probabilities=np.where(after == NO_ANSWER, worst, positive_probabilities))


def undefined(gate: Gate, metrics: Mapping[str, Metric]) -> str:
    """Why a gate's requirements cannot be judged."""
    reasons: dict[str, list[str]] = {}
    for bound in gate.bounds:
        if bound.metric not in metrics:
            reasons.setdefault(_NOT_KNOWN, []).append(bound.metric)
        elif (metric := metrics[bound.metric]).value is None:
            part = "" if metric.slice in (None, bound.of[0]) else f" (of {metric.slice})"
            reasons.setdefault(_UNDEFINED.get(bound.of[1], _NONE_OF_THE_KIND), []).append(bound.metric + part)
    return "; ".join(
        f"{', '.join(names)} cannot be measured on these samples: {reason}" for reason, names in reasons.items()
    )


def outcomes(
    gate: Gate,
    setting: Setting,
    broken: dict[int, Entry],
    positive_probabilities: np.ndarray | None,
    found: Found | None = None,
    attacked: Set[int] = frozenset(),
) -> tuple[Outcome, ...]:
    """What happened to each sample; without `found`, nothing did."""
    every, head = list[Outcome](), setting.candidate.head
    inherited = {} if found is None else found.inherited
    for sample, (label, clean) in enumerate(zip(setting.labels.tolist(), setting.decisions.tolist(), strict=True)):
        outcome = Outcome(
            sample=setting.samples.names[sample],
            label=head.name(label),
            clean=head.name(clean),
            attacked=head.name(clean),
            status="held" if label == clean else "wrong",
            score=None if positive_probabilities is None else float(positive_probabilities[sample]),
        )
        if found is not None and sample in attacked:
            queries = None if found.queries is None else int(found.queries[sample])
            outcome = replace(outcome, queries=queries)
            if (entry := broken.get(sample)) is not None:
                outcome = _broken_outcome(outcome, entry, head.name(entry.decision), gate)
            else:
                outcome = replace(outcome, status="held", evidence=_evidence(sample, found, inherited))
        every.append(outcome)
    return tuple(every)


def _evidence(sample: int, found: Found, inherited: Container[int]) -> Evidence:
    """The evidence for a sample that held."""
    if sample in found.trace.unstarted:
        return "unstarted"
    return "inherited" if sample in inherited else "searched"


def _broken_outcome(outcome: Outcome, entry: Entry, read_as: str, gate: Gate) -> Outcome:
    return replace(
        outcome,
        attacked=read_as,
        status="broken",
        evidence="searched" if entry.found_by == gate.id else "inherited",
        score=entry.score,
        found_by=entry.found_by,
        attack=entry.attack,
        distance_levels=None if gate.size else entry.distance,
        restart=entry.restart,
        step=entry.step,
        share=entry.share,
        patch=entry.patch,
        found_after=entry.queries,
        counterexample=entry.file,
        sha256=entry.sha256,
    )
