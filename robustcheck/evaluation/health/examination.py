"""Attack health: whether an attack that follows gradients worked on this candidate, or was only kept from working.

A candidate whose gradients are zero, wrong or random holds against searches that follow them, which shows nothing
(Athalye, Carlini, Wagner 2018, arXiv 1802.00420; Carlini et al. 2019, arXiv 1902.06705, section 3.4). So each white-box
gate is examined: what its searches saw costs nothing, and probes of samples that held (`probing`) cost at most a tenth
of the samples that the gate put through the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import ceil
from statistics import median

from robustcheck.attacks.searches import QUICK
from robustcheck.evaluation.health.checks import (
    MOST_OUTDONE,
    OF_THOSE_WHO_ASK,
    explains,
    gradients,
    predicts,
    same_answers,
)
from robustcheck.evaluation.health.explaining import is_small
from robustcheck.evaluation.health.predicting import MIN_EXAMINED
from robustcheck.evaluation.health.probing import FEWEST_STEPS, ProbeResult, Probes
from robustcheck.evaluation.search.found import Found, Rise
from robustcheck.evaluation.search.ledger import Entry, unknown
from robustcheck.policy import Gate, NoiseSpec
from robustcheck.results import Cost, HealthCheck, HealthOutcome
from robustcheck.words import plural

LEAST_GAIN = 0.1  # of the rise of the loss: what the last quarter of the steps may bring
LEAST_GROWN = 0.5  # of the probed samples that held: how many must turn if nothing bounds the change
_LEAST_SHARE = 2  # samples that a probe turned, from which on their share is taken for that of all that held
_TOLERANCE = 1e-6  # of a loss: what float32 cannot tell apart


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What is examined, and how its gate would be judged if more were broken."""

    probes: Probes
    found: Found
    blind: Set[int]  # samples that held where there was little or nothing to follow
    undermined_by: Callable[[Mapping[int, Entry]], bool]  # whether these too would change the verdict

    def checks(self, cost: Cost) -> tuple[HealthCheck, ...]:
        """Makes all checks; the last ones within a tenth of the gate's cost."""
        steps, attacked_count = self._steps(), len(self.probes.attacked)
        probed = self.probes.run(cost, more_steps=steps.outcome == "suspect")
        return (
            gradients(self.found.trace, self.blind),
            self._rises(),
            predicts(probed.at_images, probed.in_ball, probed.change, self._drawn, attacked_count=attacked_count),
            explains(probed.explained, self._drawn, attacked_count=attacked_count, few_passes=is_small(cost)),
            self._longer(steps, probed.longer),
            self._single_steps(probed.single_steps),
            self._without_gradients(probed.without_gradients),
            self._grown(probed.unbounded),
            same_answers(self._drawn),
        )

    def beside_noise(self, cost: Cost, *, spared: str | None) -> HealthCheck:
        """The check of an attack that asks: whether as many random images turn more of the samples that it attacked.

        Its adversary, who may ask so often, cannot do both: a sample that only noise turns is luck, if there is another
        that only the attack turned.

        Args:
            cost: of the gate's searches.
            spared: why nothing has to be asked; None if it has to be.
        """
        name = OF_THOSE_WHO_ASK[0]
        if spared is None and self._drawn is not None:
            spared = "not tried where answers are drawn"
        if spared is None and len(self.probes.held) < MIN_EXAMINED:
            spared = self._too_little()
        if spared is not None:
            return HealthCheck(name=name, outcome="not examined", evidence=spared)
        noise = self.probes.noise(cost)
        held = set(self.probes.held)
        own = sum(sample not in held for sample in self.probes.attacked[: noise.of])
        evidence = f"of {plural(noise.of, 'sample')} this gate turned {own}, and {noise.how} {len(noise.turned)}"
        alone = [(sample, entry) for sample, entry in noise.turned.items() if sample in held]
        ahead = replace(noise, turned=dict(alone[: max(0, len(noise.turned) - own)]))
        outcome: HealthOutcome = "suspect" if _outdoes(ahead) else "sound"
        if outcome == "suspect" and self._undermines(ahead):
            outcome = "broken"
        return HealthCheck(name=name, outcome=outcome, evidence=evidence)

    @property
    def _drawn(self) -> float | None:
        """How far two answers of the candidate were apart; None if it does not draw."""
        return self.probes.search.setting.candidate.randomness

    # --- what the searches saw ---

    @property
    def _courses(self) -> list[dict[str, Rise]]:
        """How far each search that was long enough raised its loss, for each sample that held."""
        rises = self.found.trace.rises
        courses = (
            {name: rise for name, rise in rises.get(sample, {}).items() if rise.steps >= FEWEST_STEPS}
            for sample in self.probes.held
        )
        return [one for one in courses if one]

    def _rises(self) -> HealthCheck:
        courses = self._courses
        if len(courses) < MIN_EXAMINED:
            return HealthCheck(name="loss-rises", outcome="not examined", evidence=self._too_few(len(courses)))
        risen = sum(any(map(_rose, one.values())) for one in courses)
        evidence = f"on {risen} of {len(courses)} samples that held, the loss rose above that of the clean image"
        return HealthCheck(
            name="loss-rises", outcome="broken" if 2 * risen < len(courses) else "sound", evidence=evidence
        )

    def _steps(self) -> HealthCheck:
        weaknesses = [one for one in (self.probes.short, self.probes.unreached) if one]
        if len(self.probes.held) >= MIN_EXAMINED and weaknesses:
            return HealthCheck(name="enough-steps", outcome="suspect", evidence=", and ".join(weaknesses))
        by_attack = dict[str, list[float]]()
        for one in self._courses:
            for name, rise in one.items():
                if _rose(rise) and name != QUICK:  # which is followed by a search that has enough steps
                    share = (rise.highest - rise.earlier) / (rise.highest - rise.began)
                    by_attack.setdefault(name, []).append(share)
        told = [shares for shares in by_attack.values() if len(shares) >= MIN_EXAMINED]
        if not told:
            few = max(map(len, by_attack.values()), default=0)
            return HealthCheck(name="enough-steps", outcome="not examined", evidence=self._too_few(few))
        gains = max(told, key=median)  # of an ensemble's attacks the one that would have gone on farthest
        middle = median(gains)
        evidence = (
            f"the last quarter of the steps brought {middle:.0%} of the loss's rise (median of {len(gains)} samples)"
        )
        return HealthCheck(
            name="enough-steps", outcome="suspect" if middle >= LEAST_GAIN else "sound", evidence=evidence
        )

    # --- what probes saw ---

    def _longer(self, steps: HealthCheck, longer: ProbeResult) -> HealthCheck:
        if steps.outcome != "suspect" or not longer.of:
            return steps
        evidence = f"{steps.evidence}; {longer.how} turned {len(longer.turned)} of {longer.of} that held"
        if self._undermines(longer):
            return HealthCheck(name="enough-steps", outcome="broken", evidence=evidence)
        cleared = self.probes.short and not self.probes.unreached and not longer.turned
        return HealthCheck(name="enough-steps", outcome="sound" if cleared else "suspect", evidence=evidence)

    def _without_gradients(self, rivals: Sequence[ProbeResult]) -> HealthCheck:
        own = self._member_that_asks()
        if not own and not rivals:
            return HealthCheck(
                name="beats-searches-without-gradients", outcome="not examined", evidence=self._too_little()
            )
        evidence = " and ".join(
            [f"{one.how} turned {len(one.turned)} of {one.of} that earlier searches left" for one in own]
            + [f"{rival.how} turned {len(rival.turned)} of {rival.of} that held" for rival in rivals]
        )
        outcome = self._outdone(rivals, own)
        return HealthCheck(name="beats-searches-without-gradients", outcome=outcome, evidence=evidence)

    def _single_steps(self, steps: ProbeResult) -> HealthCheck:
        name = "beats-single-steps"
        if steps.of < MIN_EXAMINED:
            return HealthCheck(name=name, outcome="not examined", evidence=self._too_little())
        evidence = f"{steps.how} turned {len(steps.turned)} of {steps.of} that held"
        return HealthCheck(name=name, outcome=self._outdone([steps]), evidence=evidence)

    def _outdone(self, rivals: Sequence[ProbeResult], own: Sequence[ProbeResult] = ()) -> HealthOutcome:
        """What follows from what rivals turned of the samples that held, and what the attack's `own` member turned."""
        every = {sample: entry for rival in rivals for sample, entry in rival.turned.items()}
        undermined = any(_outdoes(rival) and self._undermines(rival) for rival in rivals)
        outcome: HealthOutcome = "suspect" if any(map(_outdoes, (*own, *rivals))) else "sound"
        # What was turned is verified, and lies in the gate's own ball: however little it is, it may decide.
        if (outcome == "suspect" and self.probes.iterates) or undermined or (every and self.undermined_by(every)):
            return "broken"
        return outcome

    def _member_that_asks(self) -> list[ProbeResult]:
        """What an ensemble's member without gradients turned of what those with gradients left; it counts."""
        asked, held = self.found.asked_last, set(self.probes.held)
        left = [sample for sample in self.probes.attacked if sample in asked]
        if len(left) < MIN_EXAMINED:
            return []
        turned = unknown(sample for sample in left if sample not in held)
        return [ProbeResult(how=asked[left[0]], turned=turned, of=len(left))]

    def _grown(self, unbounded: ProbeResult) -> HealthCheck:
        if unbounded.of < MIN_EXAMINED:
            return HealthCheck(name="falls-as-budget-grows", outcome="not examined", evidence=self._too_little())
        evidence = f"{unbounded.how} turned {len(unbounded.turned)} of {unbounded.of} that held"
        outcome: HealthOutcome = "broken" if len(unbounded.turned) < LEAST_GROWN * unbounded.of else "sound"
        return HealthCheck(name="falls-as-budget-grows", outcome=outcome, evidence=evidence)

    def _too_few(self, risen: int) -> str:
        """Why losses say nothing."""
        if len(self.probes.held) < MIN_EXAMINED:
            return f"{plural(len(self.probes.held), 'sample')} held"
        every = (rise for courses in self.found.trace.rises.values() for rise in courses.values())
        steps = max((rise.steps for rise in every), default=0)
        if 0 < steps < FEWEST_STEPS:
            return f"a search of {plural(steps, 'step')} is too short to show a course"
        return (
            f"losses can be compared on {plural(risen, 'sample')} that held, and never where they are means or the "
            "search is for the nearest counterexample"
        )

    def _too_little(self) -> str:
        """Why nothing was tried."""
        if len(self.probes.held) < MIN_EXAMINED:
            return f"{plural(len(self.probes.held), 'sample')} held"
        if self.probes.uses_eot:
            return "not tried where a gradient is a mean of many"
        return "a tenth of the gate's cost does not pay for it"

    def _undermines(self, probe: ProbeResult) -> bool:
        """Whether the verdict would change if what a probe turned were broken too.

        If it turned two or more, as large a share of all that held counts as broken: one may be luck.
        """
        lost = dict(probe.turned)
        if len(lost) >= _LEAST_SHARE:
            others = [sample for sample in self.probes.held if sample not in lost]
            lost |= unknown(others[: ceil(len(lost) / probe.of * len(self.probes.held)) - len(lost)])
        return bool(lost) and self.undermined_by(lost)


def _rose(rise: Rise) -> bool:
    return rise.highest - rise.began > _TOLERANCE * max(1.0, abs(rise.began))


def _outdoes(rival: ProbeResult) -> bool:
    """Whether a rival turned more than luck does of what the gate's search left."""
    return len(rival.turned) >= 2 and len(rival.turned) >= MOST_OUTDONE * rival.of


def is_examined(gate: Gate) -> bool:
    """Whether a gate's attack is examined by probes: attacks that only ask have no gradients to be masked."""
    return gate.knowledge == "white-box" and gate.epsilon is not None


def is_asked_with_noise(gate: Gate) -> bool:
    """Whether a gate's attack is examined by noise: attacks that may only ask, except noise itself."""
    return gate.asks and not isinstance(gate.attack, NoiseSpec)
