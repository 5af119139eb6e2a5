"""Metrics as they are stated, beside what is counted again; areas under attack beside the most that they may be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.readings import Measure
from robustcheck.evaluation.replay.restating import AREA
from robustcheck.results import Metric
from robustcheck.results.agreed import WORST_FINDING, WORST_SUBGROUP

REL_TOLERANCE = 1e-6  # a report's numbers are decimal


def is_area(metric: str) -> bool:
    """Whether a metric is an area under an ROC curve, of all samples or of a part."""
    return metric.rpartition(".")[2] == AREA


def compared_metrics(
    here: Mapping[str, Metric],
    stated: Mapping[str, Metric],
    areas: Mapping[str, Measure] | None,
    intervals: Intervals,
    *,
    drawn: bool,
) -> Iterator[str]:
    """What is amiss with metrics. Areas of a candidate that draws follow from draws of its own, and are not compared.

    Args:
        here: as they are counted again; areas are the largest that they may be.
        stated: in the report.
        areas: what measures them on all samples (""), and on each part; None if areas are known exactly.
        intervals: that metrics have.
        drawn: whether the candidate draws.
    """
    yield from (f"{name} is stated, and is none of this gate's metrics" for name in stated if name not in here)
    for name, metric in here.items():
        if drawn and is_area(name):
            continue
        told = stated.get(name)
        if areas is not None and is_area(name):
            if told is not None:  # of searches that others stand for, scores are not known
                yield from _beyond(name, told, metric, areas, intervals)
        elif told is None:
            yield f"{name} is not stated"
        elif (sentence := differs(name, told, metric)) is not None:
            yield sentence


def _beyond(name: str, told: Metric, most: Metric, areas: Mapping[str, Measure], intervals: Intervals) -> Iterator[str]:
    """What is amiss with a stated area, given the largest that it may be and the least that such an area varies.

    With other scores another part may be the worst of all.
    """
    if told.value is None or most.value is None or not 0 <= told.value <= most.value + REL_TOLERANCE:
        if told.value is not most.value:
            yield f"{name} is stated as {told.value}, and is at most {most.value} with the scores that are known"
        return
    if told.confidence != most.confidence:
        yield f"the interval of {name} is stated to hold with {told.confidence}, and does with {most.confidence}"
    worst = name.partition(".")[0] in (WORST_FINDING, WORST_SUBGROUP)
    measure = areas.get(told.slice or "") if worst or told.slice == most.slice else None
    steadiest = None if measure is None else measure(replace(intervals, area=told.value))
    if steadiest is None or _number(told) != _number(steadiest):
        yield f"{name} is stated about other samples than it is"
    elif not _holds(told, steadiest.low):
        begins = "not known" if steadiest.low is None else f"{min(steadiest.low, told.value):.6g} or lower"
        yield f"the interval of {name} is stated as {told.low} to {told.high}, and is one around it from {begins}"


def _holds(told: Metric, most_low: float | None) -> bool:
    """Whether the interval that is stated of an area is about its value, and begins no higher than it may."""
    if told.low is None or told.high is None or told.value is None or most_low is None:
        return told.low is told.high is most_low is None
    return told.low <= min(told.value, most_low) + REL_TOLERANCE and told.value <= told.high + REL_TOLERANCE


def _number(metric: Metric) -> tuple[int | None, ...]:
    """How many samples a metric is about."""
    return metric.samples, metric.groups, metric.successes


def differs(name: str, told: Metric, here: Metric) -> str | None:
    """What is stated of a metric that can be counted again, and is otherwise; None: nothing."""
    if (told.successes, told.samples) != (here.successes, here.samples) and here.successes is not None:
        return counted(name, told, here.successes, here.samples)
    if not _same(told.value, here.value):
        is_there = here.value if here.successes is None else f"{here.successes} of {here.samples}"
        return f"{name} is stated as {told.value}, and is {is_there}"
    if told.confidence != here.confidence:
        return f"the interval of {name} is stated to hold with {told.confidence}, and does with {here.confidence}"
    if not _same(told.low, here.low) or not _same(told.high, here.high):
        return f"the interval of {name} is stated as {told.low} to {told.high}, and is {here.low} to {here.high}"
    if not _same(told.effective, here.effective):
        return f"{name} is stated to rest on {told.effective} independent samples, and rests on {here.effective}"
    if (_number(told), told.slice) != (_number(here), here.slice):
        return f"{name} is stated about other samples than it is"
    return None


def counted(name: str, metric: Metric, successes: int, samples: int) -> str:
    """What is said of a rate that is another one by its samples."""
    stated = f"{metric.successes} of {metric.samples}"
    return f"{name} is stated as {stated}, and by its samples it is {successes} of {samples}"


def _same(stated: float | None, here: float | None) -> bool:
    if stated is None or here is None:
        return stated is here
    return math.isclose(stated, here, rel_tol=REL_TOLERANCE, abs_tol=REL_TOLERANCE)
