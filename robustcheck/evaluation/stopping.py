"""Deciding early: samples are taken in a random order, and a gate stops as soon as its verdict is decided.

`early` decides when an interval that holds at every number of samples at once does (`anytime`); `determined` when no
outcome of the samples that are left could change the verdict on the estimate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from robustcheck.evaluation.search.ledger import unknown
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.standing import Standing
from robustcheck.results import Stopped

_FIRST = 16  # samples of the first stage; each stage after it doubles what was looked at

_LOOKS = 500  # at most, in a stage, at what an interval decides
_DECIDED = ("pass", "fail")


def stages(setting: Setting) -> Iterator[int]:
    """How many samples, in the setting's order, are to have been searched after each stage: all at once if none stops.

    Whole batches are searched; where in a stage the verdict was decided is looked up afterwards.
    """
    samples, end = len(setting.order), _FIRST
    while setting.stop != "never" and end < samples:
        yield end
        end *= 2
    yield samples


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Where a gate may stop, by what its searches came to so far, about all samples."""

    known: Standing

    @property
    def setting(self) -> Setting:
        """The gate's setting."""
        return self.known.setting

    def needed(self, before: int, until: int) -> int | None:
        """The number of samples with which the verdict was decided, from more than `before` to `until`; None if not."""
        if self.setting.stop == "early":
            counts = [*range(before + 1, until, max(1, until // _LOOKS)), until]
            return next((count for count in counts if self._decided_by_interval(count)), None)
        if self.setting.stop == "never" or not self._whatever_follows(until):
            return None
        low, high = before, until  # what no sample can change any more stays so
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._whatever_follows(middle) else (middle, high)
        return high

    def stopped(self, needed: int | None) -> Stopped | None:
        """Where the gate stopped, for the report."""
        if self.setting.stop == "never":
            return None
        of = len(self.setting.order)
        return Stopped(
            rule=self.setting.stop, needed=of if needed is None else needed, of=of, decided=(needed or of) < of
        )

    def by_interval(self, needed: int | None) -> bool:
        """Whether an interval decided, before all samples were looked at."""
        return self.setting.stop == "early" and needed is not None and needed < len(self.setting.order)

    def _decided_by_interval(self, count: int) -> bool:
        seen = replace(self.known.about(self.setting.order[:count]), rule="confident")
        verdict = seen.verdict_if({})
        if verdict == "pass" and not seen.attacked:
            return False  # nothing was tried yet
        # What held for want of anything to follow shows nothing: a pass has to do without it.
        return verdict in _DECIDED and (verdict == "fail" or seen.verdict_if(unknown(seen.blind)) == "pass")

    def _whatever_follows(self, count: int) -> bool:
        """Whether the verdict is the same if all that are left hold, if all break, and on those that were seen.

        Where a sample is attacked that is misread in another finding, an attack may mend that: nothing is determined.
        """
        goal = self.known.goal
        if goal.multilabel and goal.kind != "untargeted":
            return False
        order = self.setting.order
        seen, every = self.known.about(order[:count]), self.known
        every = replace(every, broken=seen.broken)
        left = set(every.attacked) - set(seen.attacked)
        verdicts = {seen.verdict_if({}), every.verdict_if({}), every.verdict_if(unknown(left))}
        return len(verdicts) == 1 and verdicts <= set(_DECIDED)
