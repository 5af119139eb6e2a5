"""Training patches on images: one for all of them, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from robustcheck.attacks.draws import Draws
from robustcheck.attacks.patch import PatchTraining
from robustcheck.data import Area, Samples
from robustcheck.errors import DataError
from robustcheck.evaluation.conditions import Averaging
from robustcheck.evaluation.looking import Gradients
from robustcheck.models.loading import by_shape
from robustcheck.threats.patch import NUMBERS, NoPlaceError, Placements, Placing, place

Shape = tuple[int, int, int]


_TRIED = 8  # placements, which show whether a patch has room on an image
_KEPT_BYTES = 1 << 30  # of images and masks, so that files are not decoded in every step


@dataclass(kw_only=True)
class Pool:
    """Samples that patches lie on, by place: some of a source's."""

    samples: Samples
    numbers: tuple[int, ...]  # in the source
    labels: torch.Tensor  # (N,) true readings
    keep_out: Area | None  # what may not be covered
    _kept: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    _room: int = _KEPT_BYTES

    @classmethod
    def of(cls, samples: Samples, numbers: Sequence[int], keep_out: Area | None) -> Pool:
        """These samples of a source."""
        labels = torch.from_numpy(samples.labels[list(numbers)].copy())
        return cls(samples=samples, numbers=tuple(numbers), labels=labels, keep_out=keep_out)

    def __len__(self) -> int:
        return len(self.numbers)

    def some(self, most: int) -> Pool:
        """As many of them at most, at equal distances."""
        return Pool.of(self.samples, self.numbers[:: -(-len(self) // most)], self.keep_out)

    def with_room(self, placing: Placing, key: Callable[[int], int], device: torch.device) -> Pool:
        """Those of them that a patch has a place on, at several angles and scales.

        Raises:
            DataError: there is none.
        """
        kept, why = list[int](), None
        for at, number in enumerate(self.numbers):
            uniform = Draws.of([key(at)], device).uniform((_TRIED, NUMBERS))[0]
            try:
                self.placements([at] * _TRIED, placing, uniform)
            except DataError as error:
                why = error
            else:
                kept.append(number)
        if not kept and why is not None:
            raise why
        return Pool.of(self.samples, kept, self.keep_out)

    def name(self, place: int) -> str:
        """Of the sample in its source."""
        return self.samples.names[self.numbers[place]]

    def shape(self, place: int) -> Shape:
        """(C, H, W)."""
        return self.samples.shape_of(self.numbers[place])

    def batch(self, places: Sequence[int], device: torch.device) -> torch.Tensor:
        """Images of one shape (M, C, H, W), as shares of the range."""
        images = [self._keep("image", place, lambda at: self.samples.image(self.numbers[at])) for place in places]
        return torch.from_numpy(np.stack(images)).to(device).float() / self.samples.maximum

    def _keep(self, what: str, place: int, load: Callable[[int], np.ndarray]) -> np.ndarray:
        if (known := self._kept.get((what, place))) is not None:
            return known
        loaded = load(place)
        if loaded.nbytes <= self._room:
            self._kept[what, place] = loaded
            self._room -= loaded.nbytes
        return loaded

    def placements(self, places: Sequence[int], placing: Placing, uniform: torch.Tensor) -> Placements:
        """Where patches lie on images of one shape, made of numbers (M, 5).

        Raises:
            DataError: there is no place on one of them.
        """
        _, height, width = self.shape(places[0])
        mask, keep_out = self.keep_out, None
        if mask is not None:
            masks = [self._keep("mask", place, lambda at: mask.mask(self.name(at), height, width)) for place in places]
            keep_out = torch.from_numpy(np.stack(masks)).to(uniform.device)
        try:
            return placing.draw(uniform, height, width, keep_out)
        except NoPlaceError as error:
            raise DataError(
                f"a patch of {placing.size.text} has no place on {self.name(places[error.row])} without covering what "
                "attack.keep_out says it may not; give a smaller size, or less to keep out of"
            ) from None


@dataclass(kw_only=True)
class Trainer:
    """Patches, trained on the gradients of a model."""

    attack: PatchTraining
    placing: Placing
    access: Gradients
    averaging: Averaging | None  # one look at each placement, if images are seen under conditions
    pool: Pool
    device: torch.device
    draws: int  # placements a step and patch
    batch: int  # of them that are laid on images together
    key: Callable[[str, int], int]  # of the draws of a patch's name, in a slot of its batch
    progress: Callable[[int, int], None]  # steps made, of
    not_finite: int = 0  # gradients that had NaN or infinity
    followed: set[str] = field(default_factory=set)  # names of patches that had a gradient to follow

    def for_all(self, shape: Shape, restart: int) -> torch.Tensor:
        """One patch (1, C, S, S) for all images of the pool, of which each step draws some."""
        name = f"restart {restart}"
        draws = Draws.of([self.key(name, slot) for slot in range(self.draws)], self.device)
        one = torch.zeros(self.draws, dtype=torch.int64, device=self.device)

        def chosen(numbers: torch.Tensor) -> list[int]:
            return (numbers * len(self.pool)).long().clamp_max(len(self.pool) - 1).tolist()

        return self._train(shape, draws, one, chosen, [name], restart)

    def for_each(self, shape: Shape, numbers: Sequence[int]) -> torch.Tensor:
        """A patch (N, C, S, S) for each of these images of the pool, of one shape."""
        names = [self.pool.name(number) for number in numbers]
        draws = Draws.of([self.key(name, slot) for name in names for slot in range(self.draws)], self.device)
        own = torch.arange(len(numbers), device=self.device).repeat_interleave(self.draws)
        each = [number for number in numbers for _ in range(self.draws)]
        return self._train(shape, draws, own, lambda _uniform: each, names, 0)

    def _train(
        self,
        shape: Shape,
        draws: Draws,
        owner: torch.Tensor,
        chosen: Callable[[torch.Tensor], list[int]],
        names: list[str],
        restart: int,
    ) -> torch.Tensor:
        state = self.attack.start(shape, Draws.of([self.key(name, -1) for name in names], self.device), restart)
        for step in range(self.attack.steps):
            numbers = draws.uniform((1 + NUMBERS,), at=step)
            gradient = self._gradient(state["patches"], owner, chosen(numbers[:, 0]), numbers[:, 1:], draws, step)
            usable = gradient.isfinite().flatten(1).all(dim=1)
            if not usable.all():
                self.not_finite += int((~usable).sum())
                gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            if not self.followed.issuperset(names):
                moved = (gradient != 0).flatten(1).any(dim=1)
                self.followed.update(name for name, has in zip(names, moved.tolist(), strict=True) if has)
            state = self.attack.step(state, gradient, step)
            self.progress(step + 1, self.attack.steps)
        return state["patches"]

    def _gradient(
        self,
        patches: torch.Tensor,
        owner: torch.Tensor,
        numbers: list[int],
        uniform: torch.Tensor,
        draws: Draws,
        step: int,
    ) -> torch.Tensor:
        """Mean gradient of each patch (R, C, S, S) over B placements: whose (B,) they are, and on which images."""
        total = torch.zeros_like(patches)
        alike = by_shape([self.pool.shape(number) for number in numbers])
        for slots in (
            group[start : start + self.batch] for group in alike for start in range(0, len(group), self.batch)
        ):
            index = torch.tensor(slots, device=self.device)
            members = [numbers[slot] for slot in slots]
            images, labels = self.pool.batch(members, self.device), self.pool.labels[members].to(self.device)
            at = self.pool.placements(members, self.placing, uniform[index])
            own = patches.detach().requires_grad_()
            with torch.enable_grad():
                placed = place(own[owner[index]], images, at, self.placing.outline)
            given = (placed.detach(), labels, labels, self.attack.objective)
            if self.averaging is None:
                _, _, gradient = self.access.gradient(*given)
            else:
                steps = torch.full((len(slots),), step, device=self.device)
                rows = Draws(keys=draws.keys[index])
                _, _, gradient = self.averaging.gradient(self.access, *given, rows, steps)
            total += torch.autograd.grad(placed, own, gradient)[0]
        return total / self.draws
