"""What a gate costs, counted by the meters of its candidate and its surrogates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.surrogates.loading import LoadedSurrogate
from robustcheck.models import Meter
from robustcheck.results import Cost, Queries


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a gate costs: begun before its first search."""

    meters: tuple[Meter, ...]
    before: tuple[Meter, ...]
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def open(cls, setting: Setting, surrogates: Sequence[LoadedSurrogate]) -> Account:
        """Count from now on, for the candidate and its surrogates."""
        meters = (setting.candidate.meter, *(one.candidate.meter for one in surrogates))
        return cls(meters=meters, before=tuple(replace(meter) for meter in meters))

    def cost(self, queries: Queries, *, of_searches: Cost | None = None) -> Cost:
        """The cost so far. `of_searches`: the searches' part; the rest is health."""
        pairs = list(zip(self.meters, self.before, strict=True))
        forward = sum(now.forward - then.forward for now, then in pairs)
        gradient = sum(now.gradient - then.gradient for now, then in pairs)
        own = of_searches or Cost(forward=forward, gradient=gradient)
        return Cost(
            seconds=round(time.perf_counter() - self.began, 3),
            forward=own.forward,
            gradient=own.gradient,
            queries=queries,
            health_forward=forward - own.forward,
            health_gradient=gradient - own.gradient,
        )
