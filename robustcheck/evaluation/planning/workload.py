"""How many samples a gate sends through the network, at most: from its policy alone, before anything is searched.

What a search costs on a sample that holds is known beforehand: all steps of all restarts, and the looks at where they
ended. A sample that breaks costs less. Only one thing can cost more: a point that the search sees read wrongly, and the
artefact, asked about the image as it would be stored, does not. That is `refuted`, which is rare: it counts in what is
the most, and not in the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from robustcheck.attacks import GradientAttack, QueryAttack
from robustcheck.attacks.base import closer
from robustcheck.evaluation.looks.stochastic import DRAWS, JUDGED_ON
from robustcheck.evaluation.patches.aiming import COMPARED, most_aims, ranks_labels
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.search.searching import Search
from robustcheck.evaluation.search.warm_starts import begins_anywhere
from robustcheck.models import Candidate, WhiteBox
from robustcheck.policy import Gate, RP2Spec


@dataclass(frozen=True, kw_only=True)
class Work:
    """Numbers of images that go through a network."""

    forward: int = 0  # scores alone
    gradient: int = 0  # scores and gradients, as searches follow them
    exact: int = 0  # the same, of the artefact itself
    query: int = 0  # scores, as answers to a query attack

    def __add__(self, other: Work) -> Work:
        return Work(**{name: count + getattr(other, name) for name, count in vars(self).items()})

    def __mul__(self, times: int) -> Work:
        return Work(**{name: count * times for name, count in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What a gate costs."""

    holding: Work  # if all samples hold
    refuted: Work = Work()  # beside it, if as much is refuted as can be
    models: int = 1  # that are asked for each gradient

    @property
    def forward(self) -> int:
        """Samples through the network at most, as `Cost.forward` counts them: a gradient is a forward pass too."""
        every = self.holding + self.refuted
        return every.forward + every.query + self.gradient

    @property
    def gradient(self) -> int:
        """Samples at most, as `Cost.gradient` counts them."""
        every = self.holding + self.refuted
        return every.gradient * self.models + every.exact

    def __add__(self, other: Bill) -> Bill:
        return Bill(
            holding=self.holding + other.holding,
            refuted=self.refuted + other.refuted,
            models=max(self.models, other.models),
        )

    def __mul__(self, count: int) -> Bill:
        return Bill(holding=self.holding * count, refuted=self.refuted * count, models=self.models)


@dataclass(frozen=True, kw_only=True)
class LookCounts:
    """How often an image is looked at."""

    searching: int  # in a step
    judging: int  # until it is refuted
    most: int  # until it is a counterexample

    @classmethod
    def of(cls, gate: Gate, candidate: Candidate) -> LookCounts:
        """Once, as `conditions` say, or as often as a candidate that draws is asked (`stochastic`)."""
        spec, drawing = gate.conditions, candidate.randomness is not None
        if spec is None and not drawing:
            return cls(searching=1, judging=1, most=1)
        if spec is None:
            draws = DRAWS if gate.surrogates is None else 1
            return cls(searching=draws, judging=JUDGED_ON, most=2 * JUDGED_ON)
        if isinstance(gate.attack, RP2Spec):
            looks = gate.attack.cells * spec.looks_from(gate.attack.cells, drawing=drawing)
            return cls(searching=spec.draws, judging=looks, most=2 * looks if drawing else looks)
        looks = spec.fresh_looks(drawing=drawing)
        return cls(searching=spec.draws, judging=looks, most=2 * looks)

    def seen(self, images: int) -> Bill:
        """What it costs to judge images."""
        return Bill(
            holding=Work(forward=images * self.judging), refuted=Work(forward=images * (self.most - self.judging))
        )


def column(attack: GradientAttack | QueryAttack, search: Search) -> Literal["gradient", "exact", "query"]:
    """Where its steps count, of `Work`'s."""
    if isinstance(attack, QueryAttack):
        return "query"
    return "exact" if search.follows_artefact(attack) else "gradient"


def of_search(search: Search, attacked_count: int) -> Bill:
    """What the searches of a gate cost on so many samples."""
    looks = LookCounts.of(search.gate, search.setting.candidate)
    total = Bill(holding=Work(), models=_models(search.gate))
    for attack in search.attacks:
        if isinstance(attack, GradientAttack):
            total += _following(attack, search, looks)
        else:
            total += _asking(attack, search, looks)
    if search.gate.conditions is not None:
        spec = search.gate.attack
        total += looks.seen(1 + (len(spec.plain_inks) if isinstance(spec, RP2Spec) else 0))  # the controls
    return total * attacked_count


def _following(attack: GradientAttack, search: Search, looks: LookCounts) -> Bill:
    """A search that follows gradients, on one sample."""
    gate, candidate = search.gate, search.setting.candidate
    points, ends = attack.restarts * attack.steps, attack.restarts
    plain, only_ends = gate.conditions is None, gate.surrogates is not None or isinstance(gate.attack, RP2Spec)
    # A point is judged as the nearest storable image, then as its neighbour (`GradientLoop._judge`), and where a twin
    # was followed it is asked too. At the end so is where the last step led, beside the best point (`_judge_last`).
    twice = plain and not only_ends
    beside = (1 + (candidate.network.twin is not None)) if twice else 0
    gradients = points * looks.searching
    by_surrogates = ends * _models(gate) if gate.surrogates is not None else 0
    total = looks.seen(ends * (1 + twice + attack.keeps_best)) + Bill(
        holding=Work(forward=by_surrogates, **{column(attack, search): gradients})
    )
    if only_ends:
        return total
    if attack.minimum_norm:  # it lives at the border: every point may be a nearer counterexample
        return total + Bill(
            holding=Work(forward=points * looks.judging),
            refuted=Work(forward=points * (looks.most - looks.judging + beside)),
        )
    # How far losses rose is told from clean images, which are asked about where a search sees another form than the
    # artefact, and may begin elsewhere.
    told = plain and candidate.randomness is None
    exact = search.follows_artefact(attack)
    asked = int(told and begins_anywhere(attack) and not candidate.asks_artefact(exact=exact))
    total += Bill(holding=Work(forward=ends * asked), refuted=Work(forward=points * (looks.most + beside)))
    if plain and WhiteBox(candidate, exact=exact).error > 0:
        steps = closer(attack).steps
        looked = (steps + 1) * (1 + beside)
        again = int(told and not candidate.asks_artefact(exact=True))
        total += Bill(holding=Work(), refuted=Work(exact=steps, forward=looked + again + attack.keeps_best))
    return total


def _asking(attack: QueryAttack, search: Search, looks: LookCounts) -> Bill:
    """A search that asks, on one sample: in each turn one image at most is judged, and where each restart ended.

    Where answers are drawn, it is told of counterexamples that are none as often as of others: one per turn is judged.
    """
    asked, candidate = attack.queries * attack.restarts, search.setting.candidate
    twin = search.gate.queries is None and candidate.network.twin is not None
    judged = 0 if candidate.randomness is None else ceil(attack.queries / attack.images_per_turn) * attack.restarts
    seen = judged * looks.judging
    return looks.seen(attack.restarts * (1 + attack.keeps_best)) + Bill(
        holding=Work(query=asked, forward=seen), refuted=Work(forward=asked * (looks.most + twin) - seen)
    )


def of_patch(task: PatchTask) -> Bill:
    """What a gate with a patch costs: training, comparing, judging, and its controls."""
    spec, attacked_count, looks = task.spec, len(task.attacked), LookCounts.of(task.gate, task.setting.candidate)
    models, follows = _models(task.gate), task.gate.surrogates is not None
    if not attacked_count:
        return Bill(holding=Work())
    total, placed = Bill(holding=Work(), models=models), attacked_count * spec.worst_of
    if spec.patch is None:
        patches = spec.restarts * most_aims(task) if spec.universal else attacked_count
        total += Bill(holding=Work(gradient=patches * task.steps * task.placements))
        if spec.universal and ranks_labels(task):
            total += Bill(holding=Work(gradient=COMPARED))
        if spec.universal and patches > 1:
            compared = patches * COMPARED
            total += Bill(holding=Work(forward=compared * models)) if follows else looks.seen(compared)
    if follows:
        total += Bill(holding=Work(forward=placed * models))
    if task.gate.conditions is not None:
        total += looks.seen(attacked_count)  # without a patch
    return total + looks.seen(3 * placed)


def _models(gate: Gate) -> int:
    spec = gate.surrogates
    return 1 if spec is None else len(spec.surrogate) + len(spec.train)
