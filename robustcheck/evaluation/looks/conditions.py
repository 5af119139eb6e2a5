"""Viewing conditions: proposals are judged on looks that no search has had, and searches average over others.

Searches follow the mean of the gradients (expectation over transformation; Athalye et al. 2018, arXiv 1707.07397). Each
proposal of a sample is judged on looks of its own.

Of a candidate that draws, too, all looks at an image are calls of their own: a defence may draw once for a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustcheck.attacks import Objective
from robustcheck.attacks.draws import Draws, key
from robustcheck.evaluation.looks.look import Seen, confirmed, read
from robustcheck.evaluation.looks.tally import Tally, looks_needed
from robustcheck.models import Candidate
from robustcheck.models.access import Gradients
from robustcheck.models.grey_levels import nearest_levels, shares_of
from robustcheck.models.means import MeanOfGradients
from robustcheck.threats import Goal
from robustcheck.threats.viewing import LOOK_DRAWS, Conditions, Looks, see, seen_from

_SEARCHING, _JUDGING, _CONFIRMING, _GRAIN = 1, 2, 3, 4  # draws of a row are for one purpose each
_BLOCK = 20  # looks at an image, after which it is asked whether the others can still matter


@dataclass(frozen=True, kw_only=True)
class _Camera:
    """Shows the artefact what a camera sees of images, stored at their own depth."""

    candidate: Candidate
    goal: Goal
    conditions: Conditions
    maximum: int  # largest value that can be stored

    @property
    def _drawing(self) -> bool:
        """Whether the candidate draws."""
        return self.candidate.randomness is not None

    def _read(
        self, images: torch.Tensor, labels: torch.Tensor, looks: Looks, grain: torch.Tensor | None, count: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Readings, whether they are wanted, and scores, (N, L) each, of `count` looks at each image (N, C, H, W)."""
        seen = see(images.repeat_interleave(count, dim=0), looks, grain, self.conditions.exported)
        stored = shares_of(nearest_levels(seen, self.maximum), self.maximum)
        one = read(self.candidate, self.goal, stored, labels.repeat_interleave(count))
        shape = len(images), count
        return one.decision.view(shape), one.wanted.view(shape), None if one.score is None else one.score.view(shape)


@dataclass(frozen=True, kw_only=True)
class RandomLooks(_Camera):
    """Looks under conditions that are drawn anew for each.

    What holds is looked at once more, by as many others: a search proposes until something holds, and some of that held
    by chance. What is told of it comes from the second time.
    """

    @property
    def at_once(self) -> int:
        """A block of them; of a candidate that draws one."""
        return 1 if self._drawing else min(_BLOCK, self._total)

    @property
    def _total(self) -> int:
        return self.conditions.spec.fresh_looks(drawing=self._drawing)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, draws: Draws, at: torch.Tensor) -> Seen:
        """Twice as many looks as the policy says, or until too few of those to come could hold."""
        return confirmed(
            self.look(images, labels, draws.apart(_JUDGING), at),
            lambda held: self.look(images[held], labels[held], draws.rows(held).apart(_CONFIRMING), at[held]),
        )

    def look(self, images: torch.Tensor, labels: torch.Tensor, draws: Draws, at: torch.Tensor) -> Seen:
        """As many looks as the policy says, or until too few of those to come could hold."""
        total = self._total
        needed = looks_needed(self.conditions.spec.holds_on, total)
        numbers = _numbers(draws, total, at)
        rows = torch.arange(len(images), device=images.device)
        tally = Tally.of(len(images), images.device)
        for start in range(0, total, self.at_once):
            size = min(self.at_once, total - start)
            looks = self.conditions.draw(numbers[rows, start : start + size].flatten(0, 1))
            grain = _grain(self.conditions, draws, rows, images, size, at[rows] * total + start)
            tally.add(rows, *self._read(images[rows], labels[rows], looks, grain, size))
            if (start + size) % _BLOCK:
                continue
            possible = tally.wanted[rows] + (total - start - size)
            rows = rows[possible >= needed]
            if not len(rows):
                break
        return tally.seen(needed)


@dataclass(frozen=True, kw_only=True)
class Grid(_Camera):
    """Looks from the same grid of places each time; several from each, if there are conditions that places do not set.

    Those conditions are drawn once for all samples, evenly over their ranges at each place, and whatever the policy's
    seed: no search has had them, and a counterexample that is looked at again is seen as it was. Where the candidate
    draws, what holds is looked at once more: other calls see the same.
    """

    places: Looks
    count: int  # of places

    @property
    def at_once(self) -> int:
        """One from each place; of a candidate that draws one from one of them."""
        return 1 if self._drawing else self.count

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, _draws: Draws, _at: torch.Tensor) -> Seen:
        """As many looks from each place; an image holds in a place's cell if it holds on the required share of them."""
        first = self._look(images, labels)
        return confirmed(first, lambda held: self._look(images[held], labels[held])) if self._drawing else first

    def _look(self, images: torch.Tensor, labels: torch.Tensor) -> Seen:
        tally, rows = Tally.of(len(images), images.device), torch.arange(len(images), device=images.device)
        spec, size = self.conditions.spec, self.at_once
        rounds, share = spec.looks_from(self.count, drawing=self._drawing), spec.holds_on
        drawn = Draws.of([key(0, "grid", "", 0)], images.device)
        numbers, held = _even(drawn, self.count, rounds), torch.zeros(len(rows), self.count, device=images.device)
        for number in range(rounds):
            every = seen_from(self.places, self.conditions.draw(numbers[number]))
            for place in range(0, self.count, size):
                looks = every.some(slice(place, place + size)).repeated(len(images))
                at = (number * self.count + place) // size
                grain = _grain(self.conditions, drawn, torch.zeros_like(rows), images, size, at)
                decisions, wanted, scores = self._read(images, labels, looks, grain, size)
                tally.add(rows, decisions, wanted, scores)
                held[:, place : place + size] += wanted
        return tally.seen(looks_needed(share, self.count * rounds), cells=held >= looks_needed(share, rounds))


@dataclass(frozen=True, kw_only=True)
class ConditionsEOT:
    """Means over looks under viewing conditions, drawn anew in each step."""

    conditions: Conditions
    count: int  # looks a step
    drawing: bool = False  # the candidate draws as well: each look is a call of its own

    @property
    def at_once(self) -> int:
        """All of a step's looks, if they share a call."""
        return 1 if self.drawing else self.count

    @property
    def holds_on(self) -> float:
        """Share of the looks on which a counterexample has to hold, as the policy says."""
        return self.conditions.spec.holds_on

    def gradient(
        self,
        access: Gradients,
        images: torch.Tensor,
        labels: torch.Tensor,
        aims: torch.Tensor,
        objective: Objective,
        draws: Draws,
        at: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, L, K) on L looks; mean losses (N,); gradients (N, C, H, W) of those in the images as they are.

        Of a candidate that draws each look's gradient weighs the same, as each call's does where images are seen as
        they are (`StochasticEOT`).
        """
        rows, own = torch.arange(len(images), device=images.device), draws.apart(_SEARCHING)
        numbers, asked = _numbers(own, self.count, at), (images, labels, aims)
        if not self.drawing:
            grain = _grain(self.conditions, own, rows, images, self.count, at)
            return self._follow(access, objective, asked, numbers, grain)
        logits, losses, mean = list[torch.Tensor](), list[torch.Tensor](), MeanOfGradients(self.count)
        for number, one in enumerate(numbers.split(1, dim=1)):
            grain = _grain(self.conditions, own, rows, images, 1, at * self.count + number)
            scores, loss, gradient = self._follow(access, objective, asked, one, grain)
            logits.append(scores)
            losses.append(loss)
            mean.add(gradient)
        return torch.cat(logits, dim=1), torch.stack(losses, dim=1).mean(dim=1), mean.value

    def _follow(
        self,
        access: Gradients,
        objective: Objective,
        asked: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        numbers: torch.Tensor,
        grain: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `gradient` says, in one call, on looks made of numbers (N, L, 12)."""
        images, labels, aims = asked
        shape = numbers.shape[:2]
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            looks = self.conditions.draw(numbers.flatten(0, 1))
            seen = see(images.repeat_interleave(shape[1], dim=0), looks, grain, self.conditions.exported)
        logits, loss, gradient = access.gradient(
            seen.detach(), labels.repeat_interleave(shape[1]), aims.repeat_interleave(shape[1]), objective
        )
        (own,) = torch.autograd.grad(seen, images, gradient / shape[1])
        return logits.view(*shape, -1), loss.view(shape).mean(dim=1), own


def _numbers(draws: Draws, looks: int, at: torch.Tensor) -> torch.Tensor:
    """Uniform numbers (N, looks, 12)."""
    return draws.uniform((looks, LOOK_DRAWS), at)


def _even(draws: Draws, places: int, rounds: int) -> torch.Tensor:
    """Numbers (rounds, places, 12) in [0, 1], of which each place has one in each of `rounds` equal parts of it."""
    part, within = (draws.uniform((rounds, places, LOOK_DRAWS), at)[0] for at in (0, 1))
    return (part.argsort(dim=0, stable=True) + within) / rounds


def _grain(
    conditions: Conditions, draws: Draws, rows: torch.Tensor, images: torch.Tensor, looks: int, at: int | torch.Tensor
) -> torch.Tensor | None:
    """Normal numbers (M · looks, C, H, W) for these rows (M,), if the conditions have noise."""
    if conditions.spec.noise is None:
        return None
    return draws.apart(_GRAIN).rows(rows).normal((looks, *images.shape[1:]), at).flatten(0, 1)
