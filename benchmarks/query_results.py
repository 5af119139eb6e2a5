"""From measurements of attacks that ask to the tables that people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from benchmarks.query_job import QueryMeasurement
from benchmarks.query_pairs import Pair
from benchmarks.records import Rounds, disturbed
from benchmarks.results import table


@dataclass(kw_only=True)
class QueryRecord(Rounds[QueryMeasurement]):
    """What one contender did in one pair."""

    how: str | None = None  # None: ours, of which the first is as a policy gets it by default

    @property
    def images_a_second(self) -> float:
        """Through the network: median over the rounds."""
        return self.median(lambda one: one.images / one.seconds)

    @property
    def samples_a_second(self) -> float:
        """Attacked: median over the rounds."""
        return self.median(lambda one: one.attacked / one.seconds)

    @property
    def left_at_best(self) -> float:
        """Accuracy, the mean of the rounds: of what a peer returned, as it did or stored, whichever leaves less.

        It returns one image a sample, at the border if it is minimum-norm, and storing moves that to either side. Ours
        goes on when a stored image is not read otherwise.
        """
        both = ((one.left, one.left_as_floats) for one in self.rounds)
        return fmean(left if floats is None else min(left, floats) for left, floats in both)


def section(pair: Pair, epsilon: str, queries: int, records: Sequence[QueryRecord]) -> str:
    """The tables of one pair, as Markdown."""
    done = [record for record in records if record.rounds]
    failed = [f"{record.title} failed: {record.failure}" for record in records if record.failure]
    parts = [f"### {pair.title}, ε = {epsilon}, {queries:,} queries", *failed]
    if done:
        parts += [_measured(done), _compared(done), _explained(done), disturbed(done)]
    return "\n\n".join(part for part in parts if part)


def _measured(records: Sequence[QueryRecord]) -> str:
    head = [
        "",
        "seconds",
        "images",
        "images a sample",
        "images/s",
        "samples/s",
        "clean",
        "left",
        "as floats",
        "to success",
    ]
    return table(head, [_row(record) for record in records])


def _row(record: QueryRecord) -> list[str]:
    seconds = [one.seconds for one in record.rounds]
    spread = f" ({min(seconds):.2f}–{max(seconds):.2f})" if len(seconds) > 1 else ""
    told = [one.to_success for one in record.rounds if one.to_success is not None]
    floats = [one.left_as_floats for one in record.rounds if one.left_as_floats is not None]
    return [
        record.title,
        f"{median(seconds):.2f}{spread}",
        f"{record.median(lambda one: one.images):,.0f}",
        f"{record.median(lambda one: one.images / one.attacked):,.0f}",
        f"{record.images_a_second:,.0f}",
        f"{record.samples_a_second:,.2f}",
        f"{record.rounds[0].clean:.3f}",
        f"{fmean(one.left for one in record.rounds):.3f}",
        f"{fmean(floats):.3f}" if floats else "",
        f"{fmean(told):,.0f}" if told else "",
    ]


def _compared(records: Sequence[QueryRecord]) -> str:
    """Ours against the fastest peer by either measure, and against the one that leaves least."""
    ours, peers = ([record for record in records if (record.how is None) is own] for own in (True, False))
    if not ours or not peers:
        return ""
    own = ours[0]
    by_images = max(peers, key=lambda record: record.images_a_second)
    by_samples = max(peers, key=lambda record: record.samples_a_second)
    strongest = min(peers, key=lambda record: record.left_at_best)
    lead = own.left_at_best - strongest.left_at_best
    return (
        f"Ours over the fastest peer: {own.images_a_second / by_images.images_a_second:.2f} in images a second "
        f"({by_images.title}), {own.samples_a_second / by_samples.samples_a_second:.2f} in samples a second "
        f"({by_samples.title}). Our accuracy left, less the least of a peer, as floats or stored "
        f"({strongest.title}): {lead:+.3f}."
    )


def _explained(records: Sequence[QueryRecord]) -> str:
    return "\n".join(f"- {record.title}: {record.how}." for record in records if record.how)
