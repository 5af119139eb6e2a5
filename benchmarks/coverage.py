"""Do intervals cover at their level? Simulated gates whose true values are known, with patients and without.

Gates of n images of patients whose own rates are drawn from a beta distribution around the true one, so that two images
of a patient correlate as told; the interval of the rate, by four methods. Then the area under the ROC curve, what is
made of two rates, and stopping as soon as the interval that holds at every number of samples decides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

from benchmarks.arguments import positive
from benchmarks.page import provenance
from benchmarks.results import table
from robustcheck.evaluation.metrics import anytime
from robustcheck.evaluation.metrics.clusters import effective_size, kish_size
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.results import Metric

Sizes = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

IMAGES = (10, 30, 100, 500, 2000)
RATES = (0.0, 0.002, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 0.99, 1.0)
CORRELATIONS = (0.0, 0.03, 0.1, 0.3, 0.6, 1.0)
SOME = (1, 1, 2, 3, 5, 8, 20, 1, 2, 4, 12, 1, 1, 16, 3)  # images of a patient


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of gate, and what was measured on many of them."""

    place: tuple[str, ...]
    correlation: float
    covered: float  # share of the gates
    width: float  # mean, by that of the interval that knows of no patients


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--gates", type=positive, default=2000, help="simulated, of each kind (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (default: 0)")
    given = parser.parse_args(arguments)
    start = process_time()
    print(f"{provenance('coverage', arguments)} {given.gates:,} gates of each kind.\n")
    for confidence in (0.95, 0.99):
        print(f"## Rates at {confidence}\n")
        dice = np.random.default_rng(given.seed)
        print(_of_rates(given.gates, confidence, dice, in_full=confidence == 0.95), flush=True)
    print("## Areas under ROC curves at 0.95\n")
    print(_of_areas(given.gates, np.random.default_rng(given.seed)), flush=True)
    print("## Areas near 1, without patients, at 0.95\n")
    print(_near_one(given.gates, np.random.default_rng(given.seed)), flush=True)
    print("## What is made of two rates, at 0.95\n")
    print(_of_two(given.gates, np.random.default_rng(given.seed)), flush=True)
    print("## Stopping early at 0.95\n")
    print(_of_stopping(given.gates, np.random.default_rng(given.seed)))
    print(f"{process_time() - start:.0f} seconds of one core.")


def _patients(images: int) -> dict[str, Sizes]:
    """Images of each patient (G,), by what the patients are like."""
    small = [1, 2, 3, 1, 4]
    kinds = {
        "5 equal": np.full(5, images // 5),
        "20 equal": np.full(20, images // 20),
        "pairs": np.full(images // 2, 2),
        "of 20": np.full(images // 20, 20),
        "1 to 20": _filled([], SOME, images),
        "two huge": _filled([images // 3, images // 6], small, images),
        "four huge": _filled([images // 2, images // 5, images // 10, images // 10], [images], images),
        "one half": _filled([images // 2], [1], images),
    }
    return {kind: sizes for kind, sizes in kinds.items() if len(sizes) >= 5 and sizes.min() > 0 and sizes.max() > 1}


def _filled(first: list[int], then: Sequence[int], images: int) -> Sizes:
    sizes = list(first)
    while (left := images - sum(sizes)) > 0:
        sizes.append(min(then[(len(sizes) - len(first)) % len(then)], left))
    return np.array(sizes)


def _own_rates(rate: float, correlation: float, shape: tuple[int, ...], dice: np.random.Generator) -> Floats:
    """Of each patient, so that the images of one correlate so."""
    if correlation == 0 or rate in (0, 1):
        return np.full(shape, rate)
    if correlation == 1:
        return (dice.random(shape) < rate).astype(float)
    weight = (1 - correlation) / correlation
    return dice.beta(rate * weight, (1 - rate) * weight, shape)


def _korn_graubard(hits: NDArray[np.int64], sizes: Sizes, confidence: float) -> Floats:
    """Effective sizes as published: by the design effect as estimated, and Student's quantiles."""
    samples, groups, tail = int(sizes.sum()), len(sizes), (1 + confidence) / 2
    share = hits.sum(-1) / samples
    spread = share * (1 - share)
    varies = ((hits - share[:, None] * sizes) ** 2).sum(-1) * groups / (groups - 1) / samples**2
    quantiles = (stdtrit(groups - 1, tail) / stdtrit(samples - 1, tail)) ** 2
    design = np.divide(
        samples * varies * quantiles, spread, out=np.full(len(hits), samples / kish_size(sizes)), where=spread > 0
    )
    worth: Floats = samples / np.maximum(design, 1)
    return worth


METHODS: dict[str, Callable[[NDArray[np.int64], Sizes, float], Floats]] = {
    "no patients": lambda hits, sizes, _: np.full(len(hits), float(sizes.sum())),
    "patients always agree": lambda hits, sizes, _: np.full(len(hits), kish_size(sizes)),
    "Korn, Graubard": _korn_graubard,
    "robustcheck": effective_size,
}


def _ends(hits: NDArray[np.int64], samples: int, worth: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Clopper-Pearson's, as `Intervals` has it, of many gates at once."""
    tail = (1 - confidence) / 2
    successes, misses = hits * (worth / samples), (samples - hits) * (worth / samples)
    low = betaincinv(np.where(hits > 0, successes, 1), misses + 1, tail)
    high = betaincinv(successes + 1, np.where(hits < samples, misses, 1), 1 - tail)
    return np.where(hits > 0, low, 0.0), np.where(hits < samples, high, 1.0)


def _of_rates(gates: int, confidence: float, dice: np.random.Generator, *, in_full: bool) -> str:
    found: dict[str, list[Cell]] = {name: [] for name in METHODS}
    for images in IMAGES:
        for kind, sizes in _patients(images).items():
            for rate in RATES:
                for correlation in CORRELATIONS:
                    hits = dice.binomial(sizes, _own_rates(rate, correlation, (gates, len(sizes)), dice))
                    plain = 1.0
                    for name, method in METHODS.items():
                        samples = int(sizes.sum())
                        low, high = _ends(hits.sum(-1), samples, method(hits, sizes, confidence), confidence)
                        width = float((high - low).mean())
                        plain = width if name == "no patients" else plain
                        covered = float(((low <= rate + 1e-12) & (rate - 1e-12 <= high)).mean())
                        place = (f"{images:,} images", kind, f"rate {rate}", f"correlation {correlation:g}")
                        cell = Cell(place=place, correlation=correlation, covered=covered, width=width / plain)
                        found[name].append(cell)
    text = _compared(found, gates, confidence)
    return text + _in_full(found["robustcheck"]) if in_full else text


def _compared(found: dict[str, list[Cell]], gates: int, confidence: float) -> str:
    bar = confidence - 3 * sqrt(confidence * (1 - confidence) / gates)
    rows = []
    for name, cells in found.items():
        lowest = min(cells, key=lambda cell: cell.covered)
        below = sum(cell.covered < bar for cell in cells)
        rows.append([name, f"{lowest.covered:.4f}", ", ".join(lowest.place), f"{below:,} of {len(cells):,}"])
    head = ["", "lowest coverage", "where", f"below {bar:.4f}"]
    return table(head, rows) + "\n"


def _in_full(cells: Sequence[Cell]) -> str:
    """Of each number and kind of patients: coverage by correlation, and width where there is none."""
    kinds = dict.fromkeys(cell.place[:2] for cell in cells)
    rows = []
    for kind in kinds:
        own = [cell for cell in cells if cell.place[:2] == kind]
        lowest = [min(cell.covered for cell in own if cell.correlation == one) for one in CORRELATIONS]
        common = {f"rate {rate}" for rate in RATES if 0.1 <= rate <= 0.8}
        wide = np.mean([cell.width for cell in own if cell.correlation == 0 and cell.place[2] in common])
        rows.append([", ".join(kind), *(f"{share:.3f}" for share in lowest), f"{wide:.2f}"])
    head = ["", *(f"{one:g}" for one in CORRELATIONS), "width"]
    return (
        "\nrobustcheck: the lowest coverage of all rates, by the correlation of a patient's images; and how many times "
        "as wide as without patients the interval is where there is none, rates of .1 to .8.\n\n"
        + table(head, rows)
        + "\n"
    )


def _of_areas(gates: int, dice: np.random.Generator) -> str:
    kinds = {
        "10 of 4": [4] * 10,
        "60 of 3": [3] * 60,
        "30 of 1 to 20": [1, 1, 2, 3, 5, 8, 20, 1, 2, 4] * 3,
        "20, two huge": [60, 30] + [2, 1, 3] * 6,
        "42, two huge": [60, 30] + [2, 1, 3, 4] * 10,
    }
    methods = ("no patients", "robustcheck")
    found: dict[str, list[Cell]] = {name: [] for name in methods}
    for kind, sizes in kinds.items():
        group = np.repeat(np.arange(len(sizes)), sizes)
        # A third of the patients are positive, or a third of the images of most.
        for mixed, labels in (("each of one label", group % 3 == 0), ("mixed", np.arange(len(group)) * 7 % 20 < 7)):
            for shift in (0.0, 1.0, 2.5, 4.0):
                for correlation in (0.0, 0.5, 1.0):
                    area = _area(group, labels, shift, correlation)
                    covered, widths = np.zeros(2), np.zeros(2)
                    for _ in range(gates):
                        common, own = dice.normal(size=len(sizes))[group], dice.normal(size=len(group))
                        scores = shift * labels + sqrt(correlation) * common + sqrt(1 - correlation) * own
                        for place, groups in enumerate((None, group)):
                            metric = Intervals().auroc(scores, labels, groups)
                            low, high = metric.low or 0.0, 1.0 if metric.high is None else metric.high
                            covered[place] += low <= area <= high
                            widths[place] += high - low
                    where = (kind, mixed, f"area {area:.3f}", f"correlation {correlation:g}")
                    for place, name in enumerate(methods):
                        share, wide = float(covered[place] / gates), float(widths[place] / widths[0])
                        found[name].append(Cell(place=where, correlation=correlation, covered=share, width=wide))
    apart = [cell for cell in found["robustcheck"] if cell.correlation == 0]
    rows = [[", ".join(cell.place[:3]), f"{cell.covered:.3f}", f"{cell.width:.2f}"] for cell in apart]
    return (
        _compared(found, gates, 0.95)
        + "\nWhere a patient's images do not correlate: coverage, and how many times as wide as without patients.\n\n"
        + table(["", "coverage", "width"], rows)
        + "\n"
    )


def _area(group: NDArray[np.int64], labels: NDArray[np.bool_], shift: float, correlation: float) -> float:
    """What is estimated: pairs of one patient are ordered rightly more often."""
    positives, negatives = (np.bincount(group[which], minlength=group.max() + 1) for which in (labels, ~labels))
    same = float(positives @ negatives / positives.sum() / negatives.sum())
    own = float(ndtr(shift / sqrt(2 * (1 - correlation)))) if correlation < 1 else 1.0 if shift else 0.5
    return same * own + (1 - same) * float(ndtr(shift / sqrt(2)))


def _scores(kind: str, area: float, counts: tuple[int, int], dice: np.random.Generator) -> tuple[Floats, Floats, float]:
    """Of positives and of negatives, so many, and the area under their ROC curve: about the one that is wanted."""
    positives, negatives = counts
    shift = sqrt(2) * float(ndtri(area))
    if kind == "normal":
        return dice.normal(size=positives) + shift, dice.normal(size=negatives), area
    if kind == "exponential":
        return dice.exponential(size=positives) * area / (1 - area), dice.exponential(size=negatives), area
    if kind == "rounded normal":
        edges = np.arange(-12, 14)
        of, others = np.diff(ndtr(edges - shift)), np.diff(ndtr(edges))
        true = float(of @ (np.cumsum(others) - others / 2))
        return np.floor(dice.normal(size=positives) + shift), np.floor(dice.normal(size=negatives)), true
    if kind == "two values":
        return (dice.random(positives) < area) * 1.0, (dice.random(negatives) < 1 - area) * 1.0, area
    if kind == "some as negatives":
        return (dice.random(positives) < 2 * area - 1) * 1.0, np.zeros(negatives), area
    return np.where(dice.random(positives) < area, 2.0, -1.0), dice.random(negatives), area  # some below all negatives


def _near_one(gates: int, dice: np.random.Generator) -> str:
    areas = (0.9, 0.97, 0.99, 0.999)
    rows, lowest = [], 1.0
    for kind in ("normal", "exponential", "rounded normal", "two values", "some as negatives", "some below all"):
        for counts in ((10, 10), (30, 30), (200, 200), (10, 200), (200, 10), (30, 1000)):
            told = []
            for area in areas:
                covered, width = 0, 0.0
                for _ in range(gates):
                    own, others, true = _scores(kind, area, counts, dice)
                    metric = Intervals().auroc(np.concatenate([own, others]), np.arange(sum(counts)) < len(own))
                    low, high = metric.low or 0.0, 1.0 if metric.high is None else metric.high
                    covered += low - 1e-12 <= true <= high + 1e-12
                    width += (high - low) / gates
                lowest = min(lowest, covered / gates)
                told.append(f"{covered / gates:.3f} ({width:.3f})")
            rows.append([f"{kind}, {counts[0]:,} and {counts[1]:,}", *told])
    text = "Coverage, and in brackets the mean width, of positives and negatives whose scores are distributed as told; "
    return f"{text}the lowest is {lowest:.4f}.\n\n{table(['', *map(str, areas)], rows)}\n"


def _of_two(gates: int, dice: np.random.Generator) -> str:
    kinds = {
        "100 alone": [1] * 100,
        "10 of 4": [4] * 10,
        "5 of 20": [20] * 5,
        "100 of 2": [2] * 100,
        "30 of 1 to 20": [1, 1, 2, 3, 5, 8, 20, 1, 2, 4] * 3,
    }
    found: dict[str, list[Cell]] = {"difference": [], "ppv": [], "npv": [], "worst of two": []}
    for kind, sizes in kinds.items():
        group = np.repeat(np.arange(len(sizes)), sizes)
        for truth in ((0.9, 0.9), (0.5, 0.8), (0.97, 0.6)):
            for correlation in (0.0, 0.3, 1.0):
                one, other = truth
                true = (one - other, _bayes(one, other, 0.1), _bayes(other, one, 0.9), min(truth))
                covered = np.zeros(4)
                for _ in range(gates):
                    both = [
                        dice.random(len(group)) < _own_rates(p, correlation, (len(sizes),), dice)[group] for p in truth
                    ]
                    covered += _holds(both, group, true)
                place = (kind, f"rates {one} and {other}", f"correlation {correlation:g}")
                for name, share in zip(found, covered / gates, strict=True):
                    found[name].append(Cell(place=place, correlation=correlation, covered=float(share), width=1.0))
    return _compared(found, gates, 0.95)


def _holds(both: Sequence[NDArray[np.bool_]], group: NDArray[np.int64], true: Sequence[float]) -> NDArray[np.bool_]:
    """Whether each interval has what is true; one that is undefined has."""
    intervals = Intervals()
    one, other = (intervals.rate(hits, group) for hits in both)

    def slice_of(hits: NDArray[np.bool_]) -> Callable[[Intervals], Metric]:
        return lambda at: at.rate(hits, group)

    found = intervals.worst({str(place): slice_of(hits) for place, hits in enumerate(both)})
    metrics = [intervals.difference(one, other), intervals.ppv(one, other, 0.1), intervals.npv(one, other, 0.1)]
    metrics += [found[1]] if found else []
    ends = [
        (-1.0, 1.0) if metric.low is None or metric.high is None else (metric.low, metric.high) for metric in metrics
    ]
    return np.array([low - 1e-12 <= truth <= high + 1e-12 for (low, high), truth in zip(ends, true, strict=True)])


def _bayes(found: float, spared: float, prior: float) -> float:
    return found * prior / (found * prior + (1 - spared) * (1 - prior))


def _of_stopping(gates: int, dice: np.random.Generator, cap: int = 500) -> str:
    """At each number of samples up to a cap, the bound against the interval."""
    counts = np.arange(1, cap + 1)
    lows, highs = anytime.ends(np.arange(cap + 1)[:, None], np.maximum(counts, np.arange(cap + 1)[:, None]), 0.95)
    rows = []
    for rate, bound in (
        *((rate, 0.6) for rate in (0.1, 0.3, 0.5, 0.7, 0.9)),
        *((b, b) for b in (0.05, 0.3, 0.6, 0.8, 0.95)),
    ):
        hits = (dice.random((gates, cap)) < rate).cumsum(axis=1)
        low, high = lows[hits, counts - 1], highs[hits, counts - 1]
        decided = (bound > high) | (low >= bound)
        first = np.where(decided.any(axis=1), decided.argmax(axis=1), cap - 1)
        below = bound > high[np.arange(gates), first]
        any_ = decided.any(axis=1)
        wrong = any_ if rate == bound else any_ & (below != (rate < bound))
        rows.append([f"{rate}", f"{bound}", f"{(first + 1).mean():.1f}", f"{any_.mean():.3f}", f"{wrong.mean():.4f}"])
    alone = table(["true rate", "bound", "samples to decide", f"decided within {cap}", "wrong"], rows)
    rows = [
        [order, f"{size}", f"{one:g}", *_by_patient(order, size, one, gates, cap, dice)]
        for order in ("patient by patient", "shuffled")
        for size in (2, 20)
        for one in (0.0, 0.3, 1.0)
    ]
    head = ["order", "images a patient", "correlation", "wrong at the bound of .6", "samples to decide a true .3"]
    return f"{alone}\n\nBy patient, at each number of samples up to {cap}:\n\n{table(head, rows)}\n"


def _by_patient(order: str, size: int, one: float, gates: int, cap: int, dice: np.random.Generator) -> tuple[str, str]:
    groups = cap // size
    group = np.repeat(np.arange(groups), size)
    group = dice.permutation(group) if order == "shuffled" else group
    seen = (group[:, None] == np.arange(groups)).cumsum(axis=0)
    worth = seen.sum(axis=1) ** 2 / (seen**2).sum(axis=1)
    told = []
    for rate in (0.6, 0.3):
        own = _own_rates(rate, one, (gates, groups), dice)
        hits = (dice.random((gates, cap)) < own[:, group]).cumsum(axis=1)
        open_, samples = np.arange(gates), np.full(gates, cap)
        for place in range(cap):
            low, high = anytime.ends(hits[open_, place] * (worth[place] / (place + 1)), worth[place], 0.95)
            decided = (high < 0.6) | (low >= 0.6)
            samples[open_[decided]] = place + 1
            open_ = open_[~decided]
        told.append(f"{1 - len(open_) / gates:.4f}" if rate == 0.6 else f"{samples.mean():.0f}")
    return told[0], told[1]


if __name__ == "__main__":
    main()
