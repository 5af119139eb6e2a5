"""Training patches on images: one for all of them, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from robustcheck.attacks.draws import Draws
from robustcheck.attacks.patch import PatchTraining
from robustcheck.data import Area, Samples
from robustcheck.errors import DataError
from robustcheck.evaluation.looking import Averaging, Gradients
from robustcheck.models.loading import by_shape
from robustcheck.threats.patch import NUMBERS, NoPlaceError, Placements, Placing, place

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Images that patches lie on, in memory as they are stored."""

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]  # (C, H, W) each
    labels: torch.Tensor  # (N,) true readings
    maximum: int
    masks: tuple[np.ndarray, ...] | None  # (H, W) each: what may not be covered

    @classmethod
    def of(cls, samples: Samples, numbers: Sequence[int], keep_out: Area | None) -> Pool:
        """Some of the samples, by number."""
        names = tuple(samples.names[number] for number in numbers)
        images = tuple(samples.image(number) for number in numbers)
        masks = None
        if keep_out is not None:
            masks = tuple(keep_out.mask(name, *image.shape[1:]) for name, image in zip(names, images, strict=True))
        labels = torch.from_numpy(samples.labels[list(numbers)].copy())
        return cls(names=names, images=images, labels=labels, maximum=samples.maximum, masks=masks)

    def __len__(self) -> int:
        return len(self.names)

    def first(self, most: int) -> Pool:
        """The first of them."""
        masks = self.masks and self.masks[:most]
        return replace(self, names=self.names[:most], images=self.images[:most], labels=self.labels[:most], masks=masks)

    def batch(self, numbers: Sequence[int], device: torch.device) -> torch.Tensor:
        """Images of one shape (M, C, H, W), as shares of the range."""
        return torch.from_numpy(np.stack([self.images[number] for number in numbers])).to(device).float() / self.maximum

    def placements(self, numbers: Sequence[int], placing: Placing, uniform: torch.Tensor) -> Placements:
        """Where patches lie on images of one shape, made of numbers (M, 4).

        Raises:
            DataError: there is no place on one of them.
        """
        height, width = self.images[numbers[0]].shape[1:]
        keep_out = None
        if self.masks is not None:
            keep_out = torch.from_numpy(np.stack([self.masks[number] for number in numbers])).to(uniform.device)
        try:
            return placing.draw(uniform, height, width, keep_out)
        except NoPlaceError as error:
            raise DataError(
                f"a patch of {placing.size.text} has no place on {self.names[numbers[error.row]]} without covering "
                "what attack.keep_out says it may not; give a smaller size, or less to keep out of"
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
        names = [self.pool.names[number] for number in numbers]
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
            if len(self.followed) < len(names):
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
        for group in by_shape([self.pool.images[number].shape for number in numbers]):
            index = torch.tensor(group, device=self.device)
            members = [numbers[slot] for slot in group]
            images, labels = self.pool.batch(members, self.device), self.pool.labels[members].to(self.device)
            at = self.pool.placements(members, self.placing, uniform[index])
            own = patches.detach().requires_grad_()
            with torch.enable_grad():
                placed = place(own[owner[index]], images, at, self.placing.outline)
            given = (placed.detach(), labels, labels, self.attack.objective)
            if self.averaging is None:
                _, _, gradient = self.access.gradient(*given)
            else:
                steps = torch.full((len(group),), step, device=self.device)
                rows = Draws(keys=draws.keys[index])
                _, _, gradient = self.averaging.gradient(self.access, *given, rows, steps)
            total += torch.autograd.grad(placed, own, gradient)[0]
        return total / self.draws
