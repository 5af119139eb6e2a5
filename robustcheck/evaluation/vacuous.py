"""Requirements that hold whatever the attack does: a gate that has no others is green and shows nothing.

`missed_finding` leaves the negatives alone: with 50 positives among a thousand samples, an accuracy of 0.95 is left
once each positive is missed. What a requirement comes to then follows from the clean readings and the goal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from robustcheck.evaluation.metrics.verdicts import Rule, compare
from robustcheck.evaluation.search.ledger import UNKNOWN, Entry, unknown
from robustcheck.evaluation.setting import Setting
from robustcheck.policy import Bound
from robustcheck.policy.bounds import NEEDS_CONTROLS
from robustcheck.results import Finding, Metric
from robustcheck.threats import Goal
from robustcheck.words import listed

_OF_CONTROLS = NEEDS_CONTROLS - {"excess_success"}  # about controls alone: no attack is supposed to touch them


@dataclass(frozen=True, kw_only=True)
class Vacuous:
    """Requirements of a gate that no attack could have failed."""

    bounds: tuple[Bound, ...]
    every: bool  # whether no other requirement of the gate could have been failed either
    turned: Mapping[str, Metric]  # what is measured if everything is turned
    attacked_count: int  # samples that are turned then

    @classmethod
    def among(
        cls,
        bounds: Sequence[Bound],
        required: Callable[[Mapping[int, Entry]], Mapping[str, Metric]],
        attacked: Sequence[int],
        rule: Rule,
        *,
        in_a_finding: Mapping[int, Entry] | None = None,
    ) -> Vacuous | None:
        """Those among a gate's requirements; None if there are none.

        A bound that any value meets, such as `accuracy: 0`, is only there to be measured.

        Args:
            bounds: all that the gate requires.
            required: measures what these ask for where counterexamples are known.
            attacked: samples that the adversary is after.
            rule: by which they are judged.
            in_a_finding: if the goal is about one of several findings, the same samples with that one turned: a mean
                over all findings hardly falls by that.
        """
        asked = [bound for bound in bounds if not bound.always_met and bound.of[1] not in _OF_CONTROLS]
        if not asked or not attacked:
            return None
        untouched, turned = required({}), required(unknown(attacked))
        if in_a_finding is not None:
            least = required(in_a_finding)
            turned = {**turned, **{one.metric: least[one.metric] for one in asked if one.averages_findings}}
        both = zip(asked, compare(asked, untouched, rule), compare(asked, turned, rule), strict=True)
        met = [bound for bound, before, after in both if before.met and after.met]
        if not met:
            return None
        return cls(bounds=tuple(met), every=len(met) == len(asked), turned=turned, attacked_count=len(attacked))

    def finding(self, goal: Goal) -> Finding:
        """The finding that reports them: an error if the gate has no other requirements."""
        severity: Literal["error", "warning"] = "error" if self.every else "warning"
        return Finding(code="holds-whatever-is-turned", severity=severity, message=self.message(goal))

    def message(self, goal: Goal) -> str:
        """What they are, and what to require of an adversary of this goal."""
        named = [bound.metric for bound in self.bounds]
        what = "the gate passes" if self.every else f"what is required of {listed(named)} is met"
        averages = [one for one in self.bounds if one.averages_findings and goal.finding is not None]
        spared = dict.fromkeys(averages, "; other findings unchanged")
        then = listed(
            f"{one.metric} would be {self.turned[one.metric].value:.3f} ({one}{spared.get(one, '')})"
            for one in self.bounds
        )
        instead = [one for one in dict.fromkeys((_fallen(goal), "attack_success")) if one not in named]
        return (
            f"{what} whatever the attack does: with every attacked sample turned ({self.attacked_count:,}), {then}; "
            f"require {' or '.join(instead) or 'another metric'}, or a bound that would not be met then"
        )


def _fallen(goal: Goal) -> str:
    """The metric of which nothing is left if an adversary reaches its goal everywhere, if there is one."""
    if goal.multilabel and goal.finding is None:  # those of a finding that the goal is not about fall by accident
        return "attack_success"
    if goal.kind == "missed_finding":
        return "sensitivity"
    if goal.kind == "false_alarm" or (goal.toward is not None and goal.toward == goal.positive):
        return "specificity"
    return "attack_success"


def turned_in_a_finding(goal: Goal, setting: Setting, attacked: Sequence[int]) -> dict[int, Entry] | None:
    """Attacked samples with the goal's finding turned; None if the goal is not about a single one of several.

    If any of several will do, the adversary chooses, and which choice costs a mean most is not known.
    """
    if goal.finding is None:
        return None
    readings = setting.decisions[attacked] ^ (1 << goal.finding)
    return {
        sample: replace(UNKNOWN, decision=reading) for sample, reading in zip(attacked, readings.tolist(), strict=True)
    }
