"""What a gate's queries can have been, by its limit and by what is stated of its samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from robustcheck.attacks import QueryAttack
from robustcheck.evaluation.search.searching import Search
from robustcheck.evaluation.standing import Standing
from robustcheck.results import GateResult, Outcome

_NONE = range(0)
_NOT_ASKED = range(1)  # it was attacked, but elsewhere: it cost nothing here


def of_queries(result: GateResult, standing: Standing) -> Iterator[str]:
    """Faults in what each sample is stated to have cost, and in what is counted of all of them."""
    limit = (standing.gate.queries or 0) if standing.gate.asks else 0
    least = _least(standing, limit) if limit else 0
    for one in result.samples:
        own, found = _of_sample(one, least, limit)
        for what, stated, can_be in (("number of queries", one.queries, own), ("found_after", one.found_after, found)):
            if (len(can_be) > 0) if stated is None else stated not in can_be:
                was = "none" if stated is None else f"{stated:,}"
                yield f"{one.sample}: its {what} is stated as {was}, but can only be {_words(can_be)}"
    yield from _of_all(result, beyond=limit * (len(standing.among) - len(result.samples)))


def _of_all(result: GateResult, *, beyond: int) -> Iterator[str]:
    """Faults in what all samples are stated to have cost.

    `beyond` is the most that those may have cost that are not listed: gates that are decided early search some, too.
    """
    stated, counts = result.cost.queries, [one.queries for one in result.samples if one.queries is not None] or [0]
    total, most, median = sum(counts), max(counts), float(np.median(counts))
    if not total <= stated.total <= total + beyond:
        can_be = _words(range(total, total + beyond + 1))
        yield f"cost.queries.total is stated as {stated.total:,}, but its samples cost {can_be}"
    if stated.max != most:
        yield f"cost.queries.max is stated as {stated.max:,}, but of its samples it is {most:,}"
    if stated.median != median:
        yield f"cost.queries.median is stated as {stated.median:,}, but of its samples it is {median:,.1f}"


def _of_sample(one: Outcome, least: int, limit: int) -> tuple[range, range]:
    """What a sample can have cost, of which a search that holds takes at least `least`, and when it can be broken."""
    if not limit or one.evidence is None:
        return _NONE, _NONE
    broken, inherited = one.status == "broken", one.evidence == "inherited"
    # A counterexample was asked for before its search ended; who shares those of others has the same limit.
    until = limit if inherited or one.queries is None else min(limit, max(1, one.queries))
    found = range(1, until + 1) if broken else _NONE
    return _NOT_ASKED if inherited else range(1 if broken else least, limit + 1), found


def _least(standing: Standing, limit: int) -> int:
    """What a search costs at least that finds nothing: it goes on until the limit does not pay for another turn."""
    (attack,) = Search.of(standing.gate, standing.setting, shared=True).attacks
    assert isinstance(attack, QueryAttack)
    if not attack.adaptive:  # its last turn asks about as many as are left
        return limit
    # Restarts share the limit in whole numbers; a turn asks about its images, and some turns about the point, too.
    return max(1, limit - attack.restarts * (attack.images_per_turn + 1))


def _words(can_be: range) -> str:
    """`none`, `0`, `1 to 30`."""
    if not can_be:
        return "none"
    return f"{can_be[0]:,}" if len(can_be) == 1 else f"{can_be[0]:,} to {can_be[-1]:,}"
