"""Deciding early: samples are taken in a random order, and a gate stops as soon as its verdict is decided.

`early` decides as soon as an interval that holds at every number of samples does (`anytime`); `determined` as soon as
no outcome of the remaining samples could change the verdict on the estimate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from robustcheck.evaluation.metrics.prefixes import may_decide
from robustcheck.evaluation.search.ledger import unknown
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.standing import Standing
from robustcheck.results import Stopped

_FIRST = 16  # samples of the first stage; each stage after it doubles what was looked at
_MOST_CHECKS = 500  # sample counts of a stage at which the interval is computed
_DECIDED = ("pass", "fail")


def stages(setting: Setting) -> Iterator[int]:
    """How many samples, in the setting's order, have been searched after each stage; all at once if no gate stops.

    Whole batches are searched; where in a stage the verdict was decided is looked up afterwards.
    """
    samples, end = len(setting.order), _FIRST
    while setting.stop != "never" and end < samples:
        yield end
        end *= 2
    yield samples


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Where a gate may stop, given what its searches came to so far on all samples."""

    known: Standing
    needed: int | None  # samples with which the verdict was decided; None if it is not

    @classmethod
    def after(cls, known: Standing, before: int, until: int) -> Stopping:
        """Whether the verdict was decided with more than `before` samples and at most `until`."""
        return cls(known=known, needed=_needed(known, before, until))

    @property
    def stopped(self) -> Stopped | None:
        """Where the gate stopped, for the report."""
        setting, of = self.known.setting, len(self.known.setting.order)
        if setting.stop == "never":
            return None
        needed = of if self.needed is None else self.needed
        return Stopped(rule=setting.stop, needed=needed, of=of, decided=needed < of)

    @property
    def by_interval(self) -> bool:
        """Whether an interval decided, before all samples were looked at."""
        setting = self.known.setting
        return setting.stop == "early" and self.needed is not None and self.needed < len(setting.order)


def is_decided(known: Standing, count: int) -> bool:
    """Whether so many samples, in the setting's order, decide the gate, as far as its policy allows that."""
    by_interval = known.setting.stop == "early"
    return _decided_by_interval(known, count) if by_interval else _whatever_follows(known, count)


def _needed(known: Standing, before: int, until: int) -> int | None:
    setting = known.setting
    if setting.stop == "early":
        counts = np.array([*range(before + 1, until, max(1, until // _MOST_CHECKS)), until])
        looked_at = counts[may_decide(known.measurement(known.broken), known.gate.bounds, counts)]
        return next((count for count in looked_at.tolist() if _decided_by_interval(known, count)), None)
    if setting.stop == "never" or not _whatever_follows(known, until):
        return None
    # If this passes over an early number, a few more samples are listed, but no verdict changes.
    low, high = before, until
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _whatever_follows(known, middle) else (middle, high)
    return high


def _decided_by_interval(known: Standing, count: int) -> bool:
    seen = replace(known.about(known.setting.order[:count]), rule="confident")
    verdict = seen.verdict_if({})
    if verdict == "pass" and not seen.attacked:
        return False  # nothing was tried yet
    # Samples that held because there was little or nothing to follow show nothing: a pass has to do without them.
    return verdict in _DECIDED and (verdict == "fail" or seen.verdict_if(unknown(seen.blind)) == "pass")


def _whatever_follows(known: Standing, count: int) -> bool:
    """Whether the verdict is the same if all remaining samples hold, if all break, and on those that were seen.

    If a sample is attacked that is misread in another finding, an attack may correct that: nothing is determined.
    """
    if known.goal.multilabel and known.goal.kind != "untargeted":
        return False
    seen = known.about(known.setting.order[:count])
    every = replace(known, broken=seen.broken)
    left = set(every.attacked) - set(seen.attacked)
    verdicts = {seen.verdict_if({}), every.verdict_if({}), every.verdict_if(unknown(left))}
    return len(verdicts) == 1 and verdicts <= set(_DECIDED)
