"""What `robustcheck plan` answers: whether the samples are enough for each requirement, and what a run would cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

SCHEMA: Literal["robustcheck/plan/1"] = "robustcheck/plan/1"


@dataclass(frozen=True, kw_only=True)
class RequirementPlan:
    """A bound on a metric, and whether the samples can decide it."""

    metric: str
    bound: str  # ">= 0.7" or "<= 0.2"
    supposed: float  # the true value that is assumed here
    needed: int | None  # samples of its kind; None: no number is enough, or it is not known (`notes` say why)
    about: bool  # `needed` is approximate
    never: bool  # no number of samples is enough
    samples: int  # of its kind, that there are; in `slice`, if there is one
    groups: int | None  # that the samples are in; None: each is on its own
    worth: int  # independent samples that they are worth, at least; without groups, their number
    slice: str | None  # the part of the samples that it is about, such as "sex=F"; None: all of them
    among: int  # parts that have the metric and must all meet the bound; `slice` is the least certain of them
    enough: bool  # they are worth as many samples as are needed
    power: float | None  # with what they are worth; None where it is not known exactly
    low: float | None  # ends of the interval to be expected with as many; None where the metric is undefined
    high: float | None
    clean: float | None  # the metric now, unattacked; None where it is undefined, or about an attack
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GatePlan:
    """What one gate needs, and costs."""

    id: str
    attack: str | None
    budget: str | None  # its epsilon or size, as the policy says it
    attacked: int  # how many samples are attacked
    requirements: tuple[RequirementPlan, ...] = ()
    forward: int = 0  # samples through the network at most, as a report's `cost` counts them
    gradient: int = 0
    seconds: float | None = 0.0  # if no sample breaks, with health checks; None if no step could be measured
    notes: tuple[str, ...] = ()
    error: str | None = None  # why it cannot be evaluated


@dataclass(frozen=True, kw_only=True)
class Step:
    """A measured step."""

    kind: str  # such as "forward", "pgd gradient", "fmn exact gradient" (the artefact's own) or "nes query"
    batch: int  # images through the network at once
    seconds: float  # an image, the median


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all gates of a policy need, and cost."""

    name: str  # the policy's
    margin: float
    power: float
    rule: Literal["estimate", "confident"]
    confidence: float
    interval: str
    samples: int
    groups: int | None  # that the samples are of; None: each is on its own
    device: str
    loading: float  # seconds that loading took, with asking about all samples unattacked
    gates: tuple[GatePlan, ...]  # in the policy's order
    order: tuple[str, ...]  # their ids as a run comes to them: by budget where they share counterexamples
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        """The time of all gates whose time is known, and of loading."""
        return self.loading + sum(gate.seconds or 0.0 for gate in self.gates)

    @property
    def failed(self) -> tuple[str, ...]:
        """Gates that cannot be evaluated."""
        return tuple(gate.id for gate in self.gates if gate.error is not None)

    @property
    def too_few(self) -> tuple[str, ...]:
        """Gates that have too few samples for a requirement."""
        return tuple(gate.id for gate in self.gates if not all(one.enough for one in gate.requirements))

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        return {"schema": SCHEMA, **asdict(self), "seconds": self.seconds, "too_few": self.too_few}
