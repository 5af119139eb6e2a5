"""Attack health: whether an attack that follows gradients worked on this candidate, or was only kept from working.

A candidate whose gradients are zero, wrong or drawn by chance holds against searches that follow them, and shows
nothing by it (Athalye, Carlini, Wagner 2018, arXiv 1802.00420; Carlini et al. 2019, arXiv 1902.06705, section 3.4). So
each gate of a white box is examined: what its searches saw costs nothing, and probes of samples that held (`probing`)
cost at most a tenth of the samples that the gate put through the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Literal

from robustcheck.evaluation.found import Found
from robustcheck.evaluation.loop import Rise
from robustcheck.evaluation.probing import FEW, Probed, Probes, Turned
from robustcheck.evaluation.setting import Setting
from robustcheck.policy import Gate
from robustcheck.results import Cost, Finding, GateResult, HealthCheck, HealthOutcome

MEANINGS = {
    "gradients": "the attack had little to follow",
    "loss-rises": "the search did not raise the loss: its gradients lead nowhere",
    "gradient-predicts": "the gradient does not tell what a small change does: it is masked",
    "enough-steps": "the search ended while the loss still rose",
    "beats-searches-without-gradients": "a search that has no gradients turned what this one left: they are masked",
    "falls-as-budget-grows": "samples hold though nothing bounds the change: the gradients lead nowhere",
    "same-answers": "the candidate's answers depend on chance",
    "white-box-is-stronger": "an attack with gradients left what one without them turned: they are masked",
}
"""What it means if a check is not sound."""

LEAST_SHARE = 1 / 3  # of what the gradient promises, that one grey level along it has to bring
MOST_SHARE = 3.0
LEAST_GAIN = 0.1  # of the rise of the loss: what the last quarter of the steps may bring
MOST_OUTDONE = 0.1  # of the probed samples that held: what a search without gradients may turn
LEAST_GROWN = 0.5  # of the probed samples that held: what has to be turned where nothing bounds the change
_ZERO = 0.5  # share of the gradients that are zero, from which on they are suspect
_TOLERANCE = 1e-3  # of a loss
_FEWEST_STEPS = 4  # of a search, whose loss can be said to have risen


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What is examined, and how its gate would be judged if more were broken."""

    setting: Setting
    found: Found
    held: Sequence[int]  # samples that held
    blind: int  # of these, where there never was anything to follow
    undermined_by: Callable[[Set[int]], bool]  # whether the gate would be judged otherwise if these were broken, too

    def checks(self, probes: Probes, cost: Cost) -> tuple[HealthCheck, ...]:
        """All of them; the last ones within a tenth of the gate's cost."""
        steps = self._steps()
        probed = probes.run(cost, more_steps=steps.outcome != "sound")
        return (
            self._gradients(),
            self._rises(),
            self._predicts(probed),
            self._longer(steps, probed.longer),
            self._without_gradients(probed.without_gradients),
            self._grown(probed.unbounded),
            same_answers(self.setting.candidate.randomness),
        )

    # --- what the searches saw ---

    def _gradients(self) -> HealthCheck:
        trace = self.found.trace
        share = trace.vanished / trace.asked if trace.asked else 0.0
        evidence = (
            f"of {trace.asked:,} gradients {trace.vanished:,} were zero and {trace.gradients_not_finite:,} had NaN or "
            f"infinity; {self.blind} samples held where none could be followed"
        )
        return _check("gradients", "suspect" if share > _ZERO or self.blind else "sound", evidence)

    @property
    def _risen(self) -> list[Rise]:
        """Of the samples that held and were searched for long enough."""
        rises = self.found.trace.rises
        return [rises[sample] for sample in self.held if sample in rises and rises[sample].steps >= _FEWEST_STEPS]

    def _rises(self) -> HealthCheck:
        rises = self._risen
        if len(rises) < FEW:
            return _check("loss-rises", "not examined", f"{len(rises)} samples held after a search of some steps")
        stuck = sum(rise.highest - rise.clean <= _TOLERANCE * max(1.0, abs(rise.clean)) for rise in rises)
        evidence = (
            f"of {len(rises)} samples that held the loss rose above that of the clean image on {len(rises) - stuck}"
        )
        return _check("loss-rises", "broken" if 2 * stuck > len(rises) else "sound", evidence)

    def _steps(self) -> HealthCheck:
        gains = [
            (rise.highest - rise.earlier) / (rise.highest - rise.clean)
            for rise in self._risen
            if rise.highest > rise.clean + _TOLERANCE * max(1.0, abs(rise.clean))
        ]
        if len(gains) < FEW:
            return _check("enough-steps", "not examined", f"{len(gains)} samples held whose loss rose in some steps")
        middle = median(gains)
        evidence = (
            f"the last quarter of the steps brought {middle:.0%} of the loss's rise (median of {len(gains)} samples)"
        )
        return _check("enough-steps", "suspect" if middle >= LEAST_GAIN else "sound", evidence)

    # --- what probes saw ---

    def _predicts(self, probed: Probed) -> HealthCheck:
        shares = probed.shares
        if len(shares) < FEW:
            return _check("gradient-predicts", "not examined", _too_little(len(shares)))
        middle = median(shares)
        evidence = (
            f"a change of {probed.change} along the gradient raises the margin {middle:.2f} times as much as the "
            f"gradient says (median of {len(shares)} samples; {LEAST_SHARE:.2f} to {MOST_SHARE:g} is sound)"
        )
        return _check("gradient-predicts", "sound" if LEAST_SHARE <= middle <= MOST_SHARE else "broken", evidence)

    def _longer(self, steps: HealthCheck, longer: Turned) -> HealthCheck:
        if steps.outcome != "suspect" or not longer.of:
            return steps
        evidence = f"{steps.evidence}; {longer.how} turned {longer.turned} of {longer.of} that held"
        return _check("enough-steps", "broken" if self._undermines(longer) else "suspect", evidence)

    def _without_gradients(self, rivals: Sequence[Turned]) -> HealthCheck:
        rivals = [rival for rival in rivals if rival.of]
        if not rivals:
            return _check("beats-searches-without-gradients", "not examined", _too_little(0))
        evidence = " and ".join(f"{rival.how} turned {rival.turned} of {rival.of} that held" for rival in rivals)
        worst = max(rivals, key=lambda rival: rival.turned / rival.of)
        outdone = worst.turned >= 2 and worst.turned >= MOST_OUTDONE * worst.of
        outcome: HealthOutcome = (
            "sound" if not outdone else "broken" if self._iterates or self._undermines(worst) else "suspect"
        )
        return _check("beats-searches-without-gradients", outcome, evidence)

    def _grown(self, unbounded: Turned) -> HealthCheck:
        if unbounded.of < FEW:
            return _check("falls-as-budget-grows", "not examined", _too_little(unbounded.of))
        evidence = f"{unbounded.how} turned {unbounded.turned} of {unbounded.of} that held"
        outcome: HealthOutcome = "broken" if unbounded.turned < LEAST_GROWN * unbounded.of else "sound"
        return _check("falls-as-budget-grows", outcome, evidence)

    @property
    def _iterates(self) -> bool:
        return any(rise.steps > 1 for rise in self.found.trace.rises.values())

    def _undermines(self, probe: Turned) -> bool:
        """Whether the gate would be judged otherwise if of all that held as many were broken as of those probed."""
        lost = ceil(probe.turned / probe.of * len(self.held))
        return probe.turned > 0 and self.undermined_by(set(self.held[:lost]))


def examined(gate: Gate) -> bool:
    """Whether a gate's attack is examined: those who only ask have no gradients to be masked."""
    return gate.knowledge == "white-box" and gate.epsilon is not None


def same_answers(difference: float | None) -> HealthCheck:
    """Whether a candidate answers the same question alike; else how far two answers were apart."""
    if difference is None:
        return _check("same-answers", "sound", "two identical calls got the same answer")
    evidence = (
        f"scores of two identical calls differ by up to {difference:.3g}: clean images are read by the mean of several "
        "calls, searches follow the mean of several gradients, and counterexamples are misread on most of 100 calls"
    )
    return _check("same-answers", "suspect", evidence)


def compare(turned: Set[str], others: Sequence[GateResult]) -> Iterator[HealthCheck]:
    """What a gate whose adversary has no gradients shows about those whose adversary has them, and as large a budget.

    Args:
        turned: samples that a gate of scores, labels, or transfer turned.
        others: white-box gates that were evaluated before, with the same goal.
    """
    for other in others:
        held = {sample.sample for sample in other.samples if sample.status == "held"}
        lost = turned & held
        evidence = (
            f"this gate turned {len(lost)} of the {len(held)} samples that held in {other.id}, which has gradients"
        )
        outdone = len(lost) >= 2 and len(lost) >= MOST_OUTDONE * len(held) and other.verdict in ("pass", "inconclusive")
        yield _check("white-box-is-stronger", "broken" if outdone else "sound", evidence)


def comparable(own: Gate, other: Gate) -> bool:
    """Whether another gate's adversary has gradients, and wants the same as this one's, who has none."""
    alike = (own.goal, own.target, own.norm, own.conditions) == (other.goal, other.target, other.norm, other.conditions)
    return (
        alike
        and own.knowledge in ("scores", "top-k", "label", "transfer")
        and other.attack is not None
        and other.knowledge == "white-box"
        and own.epsilon is not None
        and other.epsilon is not None
    )


def as_findings(checks: Sequence[HealthCheck]) -> Iterator[Finding]:
    """What is not sound, for who reads the gate's verdict."""
    for check in checks:
        if check.outcome in ("suspect", "broken"):
            message = f"{MEANINGS[check.name]}; {check.evidence}"
            severity: Literal["error", "warning"] = "error" if check.outcome == "broken" else "warning"
            yield Finding(code=check.name, severity=severity, message=message)


def _check(name: str, outcome: HealthOutcome, evidence: str) -> HealthCheck:
    return HealthCheck(name=name, outcome=outcome, evidence=evidence)


def _too_little(samples: int) -> str:
    return f"a tenth of what the gate cost is too little, or too few samples held ({samples} probed)"
