"""What of a gate's figures is not its own: counterexamples that its family shares, and other attacks found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from robustcheck.report.text import one_line
from robustcheck.results import GateResult
from robustcheck.words import listed, plural

_MOST_NAMED = 3


def found_elsewhere(gate: GateResult, gates: Sequence[GateResult]) -> str:
    """`34 of its 41 broken samples were found by other gates: 21 by worst, 13 at other budgets`.

    Nothing if its own search found half of them or more, or only its own attack at other budgets found the rest.

    Args:
        gate: the one that is shown.
        gates: all of its report.
    """
    by_id = {one.id: one for one in gates}
    broken = [outcome for outcome in gate.samples if outcome.status == "broken"]
    others = Counter(one.found_by for one in broken if one.found_by and one.found_by != gate.id)
    if 2 * others.total() <= len(broken):
        return ""
    by_whom = Counter[str]()
    for name, count in others.items():
        finder = by_id.get(name)
        same = finder is not None and _told_apart_by_budget(finder, gate)
        by_whom["at other budgets" if same else f"by {one_line(name)}"] += count
    if set(by_whom) == {"at other budgets"}:
        return ""
    shares = listed((f"{count:,} {whose}" for whose, count in by_whom.most_common()), limit=_MOST_NAMED)
    return f"{others.total():,} of its {plural(len(broken), 'broken sample')} were found by other gates: {shares}"


def _told_apart_by_budget(one: GateResult, other: GateResult) -> bool:
    """Whether two gates are the same attack within different budgets."""
    return (one.attack, one.parameters) == (other.attack, other.parameters) and one.threat != other.threat


def found_elsewhere_text(gates: Sequence[GateResult]) -> str:
    """The same of all gates of a report, a line each."""
    each = ((gate, found_elsewhere(gate, gates)) for gate in gates)
    return "".join(f"{one_line(gate.id)}: {words}\n" for gate, words in each if words)
