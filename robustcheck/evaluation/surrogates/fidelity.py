"""How well surrogates stood in for the candidate, on all samples and on those that were attacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustcheck.evaluation.search.found import Found
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.surrogates.loading import LoadedSurrogate
from robustcheck.models import Surrogates
from robustcheck.results import Metric, Surrogate
from robustcheck.threats import Goal


def as_reported(
    loaded: Sequence[LoadedSurrogate], setting: Setting, goal: Goal, attacked: Sequence[int], found: Found
) -> tuple[Surrogate, ...]:
    """How good a stand-in each of a gate's surrogates is.

    With several findings, only those that the goal is about are compared. The attacked samples are also compared by
    themselves: if few are worth attacking, a model that misreads each of them still agrees on the others.
    """
    labels, decisions, groups = setting.labels, setting.decisions, setting.samples.groups
    turned = _turned(loaded, setting, goal, found)

    def reported(one: LoadedSurrogate) -> Surrogate:
        own, info = one.candidate.head.decide(one.logits), one.candidate.info
        right = goal.attackable(own, labels)[list(attacked)]
        return Surrogate(
            path=one.path,
            format=info.format,
            sha256=info.sha256,
            trained=one.trained,
            accuracy=setting.intervals.rate((own == labels).numpy(), groups),
            agreement=setting.intervals.rate(goal.alike(own, decisions).numpy(), groups),
            agreement_attacked=setting.intervals.rate(right.numpy(), setting.groups_of(attacked)),
            turned=turned,
        )

    return tuple(map(reported, loaded))


def _turned(loaded: Sequence[LoadedSurrogate], setting: Setting, goal: Goal, found: Found) -> Metric:
    """Share of the searched samples that the surrogates read correctly before and misread where the search ended.

    No search turns those that they misread anyway.
    """
    before = torch.zeros(len(setting.labels), dtype=torch.bool)
    if loaded:
        read = Surrogates([one.candidate for one in loaded]).read([one.logits for one in loaded])
        before = goal.met(read, setting.labels)
    searched = [sample for sample in sorted(found.searched) if not before[sample]]
    turned = torch.tensor([sample in found.trace.surrogates_turned for sample in searched], dtype=torch.bool)
    return setting.intervals.rate(turned.numpy(), setting.groups_of(searched))
