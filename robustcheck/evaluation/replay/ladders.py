"""Gates of a report beside one another: what one of them found breaks in each that may use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.search.searching import Search
from robustcheck.policy import Gate
from robustcheck.results import GateResult


def faults_of_ladder(evaluation: Evaluation, gate_id: str, results: Mapping[str, GateResult]) -> Iterator[str]:
    """What in a gate contradicts the counterexamples that were known when it was concluded.

    Args:
        evaluation: of the policy.
        gate_id: of the gate.
        results: of all gates of the report, by id.
    """
    ladder = evaluation.ladder(gate_id)
    (place,) = (place for place, gate in enumerate(ladder) if gate.id == gate_id)
    before, known = {gate.id for gate in ladder[: place + 1]}, dict[str, str]()
    levels = float(ladder[place].levels(evaluation.setting.samples.bits))
    for gate in ladder:
        for one in results[gate.id].samples if gate.id in results else ():
            within = one.distance_levels is not None and one.distance_levels <= levels
            if one.status == "broken" and one.found_by in before and within:
                known.setdefault(one.sample, gate.id)
    stand_in = _standing_in(evaluation, ladder[: place + 1], results)
    for one in results[gate_id].samples:
        if one.status == "held" and one.evidence == "inherited" and not stand_in(one.sample):
            yield f"{one.sample}: it is stated to have held in another gate's search, and no gate here has one"
        if one.status != "broken" and one.evidence is not None and one.sample in known:
            yield f"{one.sample}: it is {one.status}, and {known[one.sample]} has a counterexample within this budget"
        own = one.evidence == "searched"
        if one.status == "broken" and (one.found_by not in before or (one.found_by == gate_id) != own):
            yield f"{one.sample}: what is said of who found its counterexample cannot be"


def _standing_in(
    evaluation: Evaluation, ladder: Sequence[Gate], results: Mapping[str, GateResult]
) -> Callable[[str], bool]:
    """Whether a search of a gate before the last one of a ladder stands for its own, by the sample's name.

    A minimum-norm search stands for all budgets, also where it found something that lies too far away; others do at
    smaller ones where they found nothing, if they are to.
    """
    *before, own = ladder
    attacks = () if own.epsilon is None else Search.of(own, evaluation.setting, shared=True).attacks
    nearest = len(attacks) == 1 and attacks[0].minimum_norm
    earlier = [
        results[gate.id]
        for gate in before
        if gate.entry == own.entry and gate.id in results and (own.descending or nearest)
    ]
    of_each = [({one.sample: one for one in result.samples}, result.stopped) for result in earlier]

    def stands(sample: str) -> bool:
        for listed, stopped in of_each:
            one = listed.get(sample)
            # Of those that it searched, a gate that was decided early lists only as many as that took.
            if one is None and stopped is not None and stopped.decided:
                return True
            if one is not None and (one.evidence == "searched" if one.status == "held" else nearest):
                return True
        return False

    return stands
