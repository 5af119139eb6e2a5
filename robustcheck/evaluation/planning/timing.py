"""How long a gate takes if no sample breaks: what it costs, times what its own steps take on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from robustcheck.attacks import GradientAttack
from robustcheck.evaluation.looks.choice import images_a_row
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.planning.stepping import Stopwatch, Turn, asking, following, judging, training
from robustcheck.evaluation.planning.workload import Bill, column
from robustcheck.evaluation.search.query_loop import rows_in_flight
from robustcheck.evaluation.search.searching import Search
from robustcheck.models import Surrogates, WhiteBox


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one gate takes."""

    work: Search | PatchTask
    bill: Bill
    attacked: list[int]
    surrogates: Surrogates | None  # loaded; None: the candidate, also for surrogates that have yet to be trained

    def seconds(self, watch: Stopwatch) -> float:
        """What its steps take together.

        Raises:
            EvaluationError: one of them cannot be made; the candidate has no gradients, say.
        """
        gate = self.work.gate
        conditions = gate.conditions.model_dump_json() if gate.conditions else ""
        models = gate.surrogates.model_dump_json(include={"surrogate"}) if gate.surrogates and self.surrogates else ""
        return sum(
            images * watch.seconds(kind, (conditions, models), turn, rows, self.attacked)
            for kind, images, rows, turn in self._kinds(" under conditions" if conditions else "")
            if images
        )

    def _kinds(self, seen: str) -> Iterator[tuple[str, int, int, Turn]]:
        """Its kinds of steps: how many images go through the network in all, how many rows at once, and the step."""
        work, holding, candidate = self.work, self.bill.holding, self.work.setting.candidate
        limit, at_most = candidate.chunks.limit, len(self.attacked)
        rows = min(at_most, max(1, limit // work.viewer.at_once))
        yield f"forward{seen}", holding.forward, rows, judging(candidate, work.viewer)

        gradients = holding.gradient * (self.bill.models if self.surrogates is None else 1)
        access = self.surrogates or WhiteBox(candidate)
        if isinstance(work, PatchTask):
            if gradients:  # it is not given
                turn, rows = training(work, self.surrogates), max(1, min(at_most, limit // work.placements))
                yield f"patch gradient{seen}", gradients, rows, turn
            return

        images = {"gradient": gradients, "exact": holding.exact, "query": holding.query}
        first_of_each = {column(attack, work): attack for attack in reversed(work.attacks)}
        for name, attack in first_of_each.items():
            step: str = "exact gradient" if name == "exact" else name
            if isinstance(attack, GradientAttack):
                rows = min(at_most, max(1, limit // images_a_row(work.viewer, work.eot)))
                shape = work.setting.samples.shape_of(self.attacked[0])
                ball = work.ball.widest(shape) if attack.minimum_norm else work.ball
                asked = WhiteBox(candidate, exact=True) if name == "exact" else access
                turn = following(asked, work.eot, attack, ball)
            else:
                pixels = prod(work.setting.samples.shape_of(self.attacked[0]))
                rows = min(at_most, rows_in_flight(attack, limit, pixels))
                counted = work.gate.queries is not None
                step = name if counted else "white-box query"
                turn = asking(candidate, attack, work.ball, counted=counted, exact=work.too_fine)
            yield f"{attack.name} {step}{seen}", images[name], rows, turn
