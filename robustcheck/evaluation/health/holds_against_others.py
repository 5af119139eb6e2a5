"""Whether a gate would have passed with what other gates turned."""

from __future__ import annotations

from collections.abc import Mapping

from robustcheck.evaluation.setting import VerdictIf
from robustcheck.results import GateResult, HealthCheck, Outcome, Verdict
from robustcheck.words import listed, plural

_SAID: dict[Verdict, str] = {"fail": "fails", "inconclusive": "is inconclusive", "error": "cannot be measured"}


def decisive(
    own: GateResult, lost: Mapping[str, Mapping[str, Outcome]], verdict_if: VerdictIf, *, instead: bool = False
) -> tuple[HealthCheck, ...]:
    """The check that a gate would not have passed with what others found; none if it would.

    A gate whose interval has only just decided it would be undone by one sample: only the estimate can break it.

    Args:
        own: the gate.
        lost: the outcomes of samples that each other gate turned, by name.
        verdict_if: this gate's.
        instead: the adversary may do what the other one did instead of what it did itself, but not both.
    """
    every = {sample: outcome for samples in lost.values() for sample, outcome in samples.items()}
    if not every:
        return ()
    for by_estimate in (True, False):
        verdict = verdict_if(every, by_estimate=by_estimate, instead=instead)
        if verdict not in ("pass", verdict_if({}, by_estimate=by_estimate)):
            who = listed(name for name, samples in lost.items() if samples)
            attacked = [sample for sample in own.samples if sample.evidence is not None]
            of = len(attacked) if instead else sum(sample.status == "held" for sample in attacked)
            evidence = (
                f"{who} turned {len(every)} of {plural(of, 'sample')} that this gate attacked, and with these in place "
                f"of its own it {_SAID[verdict]}"
                if instead
                else f"{who} turned {len(every)} of {plural(of, 'sample')} that held in this gate, which "
                f"{_SAID[verdict]} with these"
            )
            return (
                HealthCheck(
                    name="holds-against-others", outcome="broken" if by_estimate else "suspect", evidence=evidence
                ),
            )
    return ()
