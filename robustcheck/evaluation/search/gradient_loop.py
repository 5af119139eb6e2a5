"""The searches that follow gradients: every row asks about one point per turn, and carries its own step count."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf

import numpy as np
import torch

from robustcheck.attacks import GradientAttack, Objective, Told, objective
from robustcheck.attacks.draws import Draws
from robustcheck.evaluation.looks.choice import EOT, images_a_row
from robustcheck.evaluation.looks.tally import looks_needed
from robustcheck.evaluation.search.found import Rise
from robustcheck.evaluation.search.loop import Loop, Start
from robustcheck.evaluation.search.rows import GradientRows, Rows
from robustcheck.models import Surrogates
from robustcheck.models.access import Gradients

KnownStarts = Callable[[Sequence[Start]], tuple[np.ndarray, torch.Tensor] | None]
"""Says which places (M,) of some starts have a known better point, and the changes (M, C, H, W), largest pixel 1."""
OnHold = Callable[[GradientRows, torch.Tensor], None]
"""Takes the rows (M) that hold when they have made their steps, and their best points (M, C, H, W)."""

_ENOUGH = 0.5  # of a gradient's entries: where the others are no numbers, the search follows these
_NEARER = 0.98  # of the last verified proposal's distance: a minimum-norm search proposes again below this


def anew(_starts: Sequence[Start]) -> None:
    """Nothing but the image is known as a start of these searches."""


def forget(_rows: GradientRows, _images: torch.Tensor) -> None:
    """Nobody asks where these rows ended."""


@dataclass(kw_only=True)
class GradientLoop(Loop[GradientAttack, GradientRows]):
    """A search that follows gradients."""

    access: Gradients
    known_starts: KnownStarts = anew
    on_hold: OnHold
    clean_logits: Callable[[GradientRows], torch.Tensor] | None  # (N, K) as `access` sees them, if losses count
    doubtful_margin: float | None = None  # nearer 0 the artefact may differ: neighbours are tried; None: always
    enough: float = -1.0  # grey levels: a counterexample as near as this ends a minimum-norm search
    eot: EOT | None = None  # over looks, if images are seen under conditions, or over a candidate's draws
    only_ends: bool = False  # nothing but the end of a search is proposed
    _known: set[Start] = field(default_factory=set)  # starts where other searches ended
    _marked: set[int] = field(default_factory=set)  # turns after which a row has a quarter of its steps left, or none

    @cached_property
    def _margin(self) -> Objective:
        """The goal's margin, in which rows remember how near they came."""
        return objective("margin", self.task.goal)

    @property
    def limit(self) -> int:
        """As many rows as go through the network together."""
        return max(1, self.task.candidate.chunks.limit // images_a_row(self.task.viewer, self.eot))

    def _entering(self, rows: Rows) -> GradientRows:
        """As in `Loop`; marks the turns after which rows have made all their steps, or have a quarter of them left."""
        last_turn = self._turn + self.attack.steps
        self._marked |= {last_turn - self._last_quarter, last_turn}
        return GradientRows.entering(rows, last_turn=last_turn)

    @property
    def _last_quarter(self) -> int:
        """How many steps the last quarter of a search has."""
        return self.attack.steps // 4

    def _starts(self, clean: torch.Tensor, draws: Draws, entering: list[Start]) -> torch.Tensor:
        images = clean
        if self.attack.random_start:
            images = self.ball.sample(clean, draws.uniform(clean.shape[1:]))
        return self._warmed(images, clean, entering)

    def _advance(self, rows: GradientRows, waiting: deque[Start]) -> np.ndarray:
        """Ask about all rows' points, adjudicate, step; return the places (M,) of rows that leave."""
        images = rows.state["images"]
        told = self._ask(rows, images)
        gone = np.zeros(len(rows), dtype=bool)
        proposing = np.zeros(0, dtype=np.int64) if self.only_ends else self._proposing(rows, images, told)
        if len(proposing):
            index = torch.from_numpy(proposing).to(images.device)
            broken = self._judge(rows.take(proposing), images[index], told, proposing, fooled=True)
            if self.attack.minimum_norm:
                told = self._learn(rows, images, told, proposing, broken)
                broken &= np.array(
                    [self._distance_suffices(sample) for sample in rows.sample[proposing].tolist()], dtype=bool
                )
            gone[proposing[broken]] = True
            self._done += int(broken.sum())
        rows.state = self.attack.step(rows.state, told, rows.clean, self.ball, rows.draws)
        rows.step = rows.step + 1
        if self._turn in self._marked and len(ending := np.flatnonzero((rows.last_turn <= self._turn) & ~gone)):
            self._finish(rows.take(ending), told, ending, waiting)
            gone[ending] = True
        return np.flatnonzero(gone)

    def _ask(self, rows: GradientRows, images: torch.Tensor) -> Told:
        """Compute losses and gradients at the rows' points; what is not finite is noted and not followed."""
        given = (images, rows.label, rows.aim, self.attack.objective)
        if self.eot is None:
            logits, loss, gradient = self.access.gradient(*given)
        else:
            logits, loss, gradient = self.eot.gradient(self.access, *given, rows.draws, rows.step)
        fooled = self._fooled(logits, rows.label)
        least, most = torch.stack(torch.linalg.vector_norm(gradient, dim=(1, 2, 3)).aminmax()).tolist()
        if least > 0 and most < inf:  # neither holds for a NaN
            rows.followable.fill_(True)
        else:
            gradient = self._usable(rows, gradient, fooled)
        self.task.trace.gradients += len(rows)
        if self._tracks_loss:
            rows.first = torch.where(rows.step == 0, loss, rows.first)
            rows.highest = torch.fmax(rows.highest, loss)
            if self._turn in self._marked:
                index = torch.from_numpy(rows.last_turn - self._turn == self._last_quarter).to(images.device)
                rows.earlier[index] = rows.highest[index]
        if self.doubtful_margin is not None:
            margin = self._margin(self.task.candidate.head.at_operating_point(logits), rows.label, rows.aim)
            rows.best_margin = torch.maximum(rows.best_margin, margin.nan_to_num(nan=torch.inf))  # NaN: anywhere
        return Told(step=rows.step, loss=loss, fooled=fooled, gradient=gradient)

    def _usable(self, rows: GradientRows, gradient: torch.Tensor, fooled: torch.Tensor) -> torch.Tensor:
        """Note which gradients are 0, NaN or infinite; returns them (N, C, H, W) with 0 for what is not finite.

        Where the search sees what it wants, a gradient of zero is no loss: a log-probability has nowhere to rise there.
        """
        steepness = gradient.flatten(1).abs().amax(dim=1)  # not the L2 norm, whose squares round to 0 or to infinity
        finite = steepness.isfinite()
        usable = steepness > 0
        if not finite.all():
            self.task.trace.not_finite.update(rows.sample[~finite.cpu().numpy()].tolist())
            self.task.trace.gradients_not_finite += int((~finite).sum())
            mostly = gradient.isfinite().flatten(1).float().mean(dim=1) >= _ENOUGH
            gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            usable = mostly & (gradient.flatten(1).abs().amax(dim=1) > 0)
        rows.followable |= usable
        rows.lost += ~usable & ~(finite & fooled)
        self.task.trace.gradients_zero += int((steepness == 0).sum())
        return gradient

    def _fooled(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Which rows (N,) are read as the adversary wants; with several looks, on the required share of them."""
        if self.eot is None:
            return self.task.goal.met(self.task.candidate.head.decide(logits), labels)
        looks = logits.shape[1]
        wanted = self.task.goal.met(
            self.task.candidate.head.decide(logits.flatten(0, 1)), labels.repeat_interleave(looks)
        )
        return wanted.view(-1, looks).sum(dim=1) >= looks_needed(self.eot.holds_on, looks)

    def _proposing(self, rows: GradientRows, images: torch.Tensor, told: Told) -> np.ndarray:
        """Places of the rows whose points are worth adjudicating now."""
        worth = told.fooled
        if self.attack.minimum_norm:
            distance = self.ball.norm(images - rows.clean)
            worth = worth & (distance < _NEARER * rows.proposed)
        return np.flatnonzero(worth.cpu().numpy())

    def _learn(
        self, rows: GradientRows, images: torch.Tensor, told: Told, proposing: np.ndarray, broken: np.ndarray
    ) -> Told:
        """Record verified distances; mark refuted proposals as not fooled."""
        index = torch.from_numpy(proposing).to(images.device)
        verified = torch.from_numpy(broken).to(images.device)
        near = index[verified]
        rows.proposed[near] = self.ball.norm(images[near] - rows.clean[near])
        fooled = told.fooled.clone()
        fooled[index[~verified]] = False
        return replace(told, fooled=fooled)

    def _distance_suffices(self, sample: int) -> bool:
        """Whether it no longer matters how near a counterexample of this sample can be."""
        return self._distances.get(sample, inf) <= self.enough

    def _finish(self, rows: GradientRows, told: Told, places: np.ndarray, waiting: deque[Start]) -> None:
        """Adjudicate rows that have made their steps; a sample that holds goes on with its next restart."""
        images = self.attack.best(rows.state)
        if isinstance(self.access, Surrogates):
            turned = self.task.goal.met(self.access.decide(images), rows.label).cpu().numpy()
            self.task.trace.surrogates_turned.update(rows.sample[turned].tolist())
        broken = self._judge(rows, images, told, places, fooled=False)
        if self.attack.keeps_best:
            broken = self._judge_last(rows, images, broken)
        holding = np.flatnonzero(~broken)
        on = ~broken
        if self.attack.minimum_norm:
            on = np.array([not self._distance_suffices(sample) for sample in rows.sample.tolist()], dtype=bool)
        self._again(rows, on, waiting)
        if len(holding):
            self._record_rises(rows.take(holding))
            self.on_hold(rows.take(holding), images[torch.from_numpy(holding).to(images.device)])

    @property
    def _tracks_loss(self) -> bool:
        """Whether losses can be compared with those of the clean images, and with one another."""
        return self.clean_logits is not None and self.eot is None and not self.attack.minimum_norm

    def _record_rises(self, rows: GradientRows) -> None:
        """Record how far the losses of rows that hold were raised, by attack: each loss has its own units."""
        if not self._tracks_loss:
            return
        told = torch.stack([self._began(rows), rows.earlier, rows.highest]).cpu().T.tolist()
        for sample, (began, earlier, highest) in zip(rows.sample.tolist(), told, strict=True):
            courses = self.task.trace.rises.setdefault(sample, {})
            known = courses.get(self.attack.name)
            if known is None or highest > known.highest:
                courses[self.attack.name] = Rise(began=began, earlier=earlier, highest=highest, steps=self.attack.steps)

    def _began(self, rows: GradientRows) -> torch.Tensor:
        """The losses (N,) that rows began with, by the form of the network that was searched.

        After a random start it is the start's own loss or the clean image's, whichever is higher: what chance raised
        no search did. After a start where another search ended it is the clean image's.
        """
        if self.clean_logits is None or not (self.attack.random_start or self._known):
            return rows.first
        logits, objective = self.clean_logits(rows).to(rows.clean.device), self.attack.objective
        clean = objective(self.task.candidate.head.at_operating_point(logits, objective), rows.label, rows.aim)
        known = [start in self._known for start in zip(rows.sample.tolist(), rows.restart.tolist(), strict=True)]
        return torch.where(torch.tensor(known, device=clean.device), clean, torch.fmax(clean, rows.first))

    def _judge(
        self, rows: GradientRows, images: torch.Tensor, told: Told, places: np.ndarray, *, fooled: bool
    ) -> np.ndarray:
        """Adjudicate images, report the counterexamples; return which rows (M,) are broken.

        Each image is proposed as the nearest storable one; if that holds, as its storable neighbour on the gradient's
        side, unless the gradient is another model's, images are seen under conditions (one level decides little then),
        the neighbour is the same image, or the row has stayed far from the border.

        Args:
            rows: (M) of the rows, those at `places`.
            images: (M, C, H, W) of them.
            told: of all rows.
            places: (M,).
            fooled: whether they were misread in the search.
        """
        rounded = self.ball.rounded(images, rows.clean)
        broken = self._propose(rows, rounded)
        if fooled and not broken.all():
            if self.eot is not None:
                self.task.trace.lapsed += int((~broken).sum())
            else:
                refuted = torch.from_numpy(~broken).to(images.device)
                self._note_refuted(rounded[refuted], rows.label[refuted], twin=True)
        if self.only_ends or self.eot is not None:
            return broken
        worth = ~broken
        if self.doubtful_margin is not None:
            worth &= (rows.best_margin >= -self.doubtful_margin).cpu().numpy()
        if len(rest := np.flatnonzero(worth)):
            left, there = rows.take(rest), torch.from_numpy(rest).to(images.device)
            direction = told.gradient[torch.from_numpy(places[rest]).to(images.device)]
            beside = self.ball.outward if self.attack.minimum_norm else self.ball.aside
            neighbours = beside(images[there], left.clean, direction)
            other = (neighbours != rounded[there]).flatten(1).any(dim=1).cpu().numpy()
            if other.any():
                index = torch.from_numpy(np.flatnonzero(other)).to(images.device)
                broken[rest[other]] = self._propose(left.take(np.flatnonzero(other)), neighbours[index])
        return broken

    def _judge_last(self, rows: GradientRows, best: torch.Tensor, broken: np.ndarray) -> np.ndarray:
        """Also adjudicate the point after the last step, for rows whose best point (N, C, H, W) held."""
        images = rows.state["images"]
        other = (images != best).flatten(1).any(dim=1).cpu().numpy()
        if not len(places := np.flatnonzero(~broken & other)):
            return broken
        left, index = rows.take(places), torch.from_numpy(places).to(images.device)
        if self.eot is not None:
            left.step = left.step + 1  # it is looked at as the best point was not
        after = broken.copy()
        after[places] = self._propose(left, self.ball.rounded(images[index], left.clean))
        return after

    def _warmed(self, images: torch.Tensor, clean: torch.Tensor, entering: list[Start]) -> torch.Tensor:
        """Move starts to where other searches ended, if that is known, with the changes scaled to ε."""
        known = self.known_starts(entering)
        if known is None:
            return images
        which, changes = known
        self._known.update(entering[place] for place in which.tolist())
        index = torch.from_numpy(which).to(images.device)
        start = self.ball.project(clean[index] + changes.to(images.device) * self.ball.radius, clean[index])
        return images.index_copy(0, index, start)
