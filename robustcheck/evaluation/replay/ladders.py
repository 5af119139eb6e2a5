"""Gates of a report beside one another: what one of them found breaks in each that may use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from robustcheck.evaluation.evaluation import Evaluation
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
    for one in results[gate_id].samples:
        if one.status != "broken" and one.evidence is not None and one.sample in known:
            yield f"{one.sample}: it is {one.status}, and {known[one.sample]} has a counterexample within this budget"
        if one.status == "broken" and (one.found_by not in before or (one.found_by == gate_id) != _own(one.evidence)):
            yield f"{one.sample}: what is said of who found its counterexample cannot be"


def _own(evidence: str | None) -> bool:
    return evidence == "searched"
