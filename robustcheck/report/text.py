"""Words and numbers that every report says in the same way, and the cleaning of text that comes from outside.

Labels, sample names, paths and error messages are written by others. Each string goes through `visible` or `one_line`
on its way into a report, so that none of them can break XML, hide what follows it from a reader, reorder a line by
bidirectional controls, or send escape sequences to a terminal.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from robustcheck.results import METRICS, Cost, GateResult, Metric, Requirement, Status
from robustcheck.results.agreed import WORST_FINDING, WORST_SUBGROUP
from robustcheck.words import plural, visible

# Where a name may break: after what joins its words, and before a gate's parameters in brackets, which stay whole.
_NAME = re.compile(r"\[[^\[\]]{1,24}\]|\s*[^_.\-\[\s]*[_.\-]+|\s*[^_.\-\[\s]+|\[|\s+")
LONGEST_PIECE = 14  # letters, or columns, that a piece of a name may take before it is broken anywhere
_BOUND = re.compile(r"\s*([<>])=?\s*([-+.\deE]+)\s*")


def meaning_of(name: str, finding: str | None = None) -> str:
    """The meaning of a metric, and the part of the samples that it is about; nothing if it is not known.

    Args:
        name: the metric's.
        finding: that the gate is about, in the place of the policy's positive label.
    """
    about, _, plain = name.rpartition(".")
    meaning = METRICS.get(plain, "")
    if finding is not None and about in ("", WORST_SUBGROUP):
        meaning = meaning.replace("the positive label's", f"{one_line(finding)}'s")
    if not about or not meaning:
        return meaning
    if about == WORST_SUBGROUP:
        return f"in the worst subgroup: {meaning}"
    finding = "the worst finding" if about == WORST_FINDING else one_line(about)
    if plain == "balanced_accuracy":
        return f"of {finding}: (sensitivity + specificity) / 2"
    its = meaning.replace("the positive label's", "its")
    return f"of {finding}: {its}"


def one_line(text: str) -> str:
    """The text made visible, on one line."""
    return " ".join(visible(text).split())


def name_pieces(name: str) -> list[str]:
    """`white_`, `box_`, `pgd`, `[2/255]`: what of a name stays on one line if it can."""
    return _NAME.findall(name)


def levels(value: float) -> str:
    """`1 level`, `1.5 levels`."""
    shown = f"{value:.4g}"
    return f"{shown} level" if shown == "1" else f"{shown} levels"


def number(value: float | None, digits: int = 3) -> str:
    """A value between 0 and 1, or `undefined`."""
    return "undefined" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def seconds(value: float) -> str:
    """A duration, in the unit that a reader thinks in."""
    if not math.isfinite(value):
        return "unknown time"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def moment(started: str) -> datetime | None:
    """The time that an ISO 8601 text names, in UTC; None if it names none."""
    try:
        parsed = datetime.fromisoformat(started)
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def date_text(started: str) -> str:
    """`2026-11-29 17:24 UTC`, of an ISO 8601 text."""
    found = moment(started)
    return found.strftime("%Y-%m-%d %H:%M UTC") if found else "date not recorded"


def bound_of(requirement: Requirement) -> tuple[str, float] | None:
    """`(">", 0.7)` for at least 0.7, `("<", 0.2)` for at most 0.2; None if the bound cannot be read."""
    found = _BOUND.fullmatch(requirement.bound)
    try:
        return (found[1], float(found[2])) if found else None
    except ValueError:
        return None


def measured_value(metric: Metric, requirement: Requirement | None) -> str:
    """The value with as many digits, from three, as show on which side of what is required it lies.

    Rounded to three digits, 0.6996 would read as meeting `>= 0.7`.
    """
    return _number_beside(requirement, metric.value)


def _number_beside(requirement: Requirement | None, value: float | None) -> str:
    bound = None if requirement is None else bound_of(requirement)
    if bound is None or value is None or not math.isfinite(value):
        return number(value)

    def side(value: float) -> int:
        return (value > bound[1]) - (value < bound[1])

    wanted = side(value)
    digits = next((digits for digits in range(3, 8) if side(round(value, digits)) == wanted), 3)
    return number(value, digits)


def interval(metric: Metric, requirement: Requirement | None = None) -> str:
    """`0.566 to 0.653`, or nothing where no interval is known; its ends, too, show their side of what is required."""
    if metric.low is None or metric.high is None:
        return ""
    return f"{_number_beside(requirement, metric.low)} to {_number_beside(requirement, metric.high)}"


def support_count(metric: Metric) -> str:
    """`305 of 500`, or `500 samples` for metrics that are no rate; `of 210 groups` if they do not stand alone."""
    of = plural(metric.samples, "sample") if metric.successes is None else f"{metric.successes:,} of {metric.samples:,}"
    in_groups = "" if metric.groups is None else f", of {plural(metric.groups, 'group')}"
    which = "" if metric.slice is None else f" in {one_line(metric.slice)}"
    return f"{of}{which}{in_groups}"


def support(metric: Metric, requirement: Requirement | None = None) -> str:
    """What a value rests on: `305 of 500; 95 % interval 0.566 to 0.653`."""
    if not (ends := interval(metric, requirement)):
        return support_count(metric)
    return f"{support_count(metric)}; {percent(metric.confidence)} interval {ends}"


def percent(confidence: float) -> str:
    """`95 %`."""
    return f"{100 * confidence:.6g} %"


def confidence_of(gate: GateResult) -> str:
    """The confidence of a gate's intervals, such as `95 %`."""
    return percent(next((metric.confidence for metric in gate.metrics.values()), 0.95))


def metric_text(name: str, metric: Metric) -> str:
    """`accuracy 0.610 (305 of 500; 95 % interval 0.566 to 0.653)`."""
    return f"{one_line(name)} {number(metric.value)} ({support(metric)})"


def status_counts(gate: GateResult) -> Counter[Status | Literal["not attacked"]]:
    """How many samples were broken, held, wrong before the attack, or not attacked: the goal is not about them."""
    return Counter(
        "not attacked" if gate.attack and outcome.status == "held" and outcome.evidence is None else outcome.status
        for outcome in gate.samples
    )


def status_text(gate: GateResult) -> str:
    """`90 broken, 305 held, 105 wrong before the attack`."""
    found = status_counts(gate)
    if gate.attack is None:
        return f"{found['held']:,} right, {found['wrong']:,} wrong"
    spared = f"{found['not attacked']:,} not attacked, " if found["not attacked"] else ""
    return f"{found['broken']:,} broken, {found['held']:,} held, {spared}{found['wrong']:,} wrong before the attack"


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """`steps 40, restarts 2`."""
    return ", ".join(f"{one_line(name)} {_parameter(value)}" for name, value in parameters.items())


def _parameter(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def cost_text(cost: Cost) -> str:
    """`12.3 s; 20,480 forward passes, 18,211 of them with a gradient; no queries`."""
    asked = cost.queries
    queries = f"{asked.total:,} queries (most {asked.max:,}, median {asked.median:,g} a sample)"
    passes = f"{cost.forward:,} forward passes, {cost.gradient:,} of them with a gradient"
    health = f"; {cost.health_forward:,} more to examine the attack" if cost.health_forward else ""
    return f"{seconds(cost.seconds)}; {passes}; {queries if asked.total else 'no queries'}{health}"


def needed_text(gate: GateResult) -> str:
    """How many samples a gate that may decide early looked at."""
    stopped = gate.stopped
    if stopped is None:
        return ""
    if not stopped.decided:
        return f"all {stopped.of:,}: nothing was decided before the last one"
    how = {
        "early": "decided by an interval that holds at every number of samples",
        "determined": "no outcome of the others could change the verdict",
    }[stopped.rule]
    return f"{stopped.needed:,} of {stopped.of:,}, in a random order; {how}"
