"""Training patches on images: one for all of them, or one for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np
import torch

from robustcheck.attacks.draws import Draws
from robustcheck.attacks.patch import PatchTraining
from robustcheck.data import Area, Samples
from robustcheck.data.samples import Shape
from robustcheck.errors import DataError, EvaluationError
from robustcheck.evaluation.looks.conditions import ConditionsEOT
from robustcheck.evaluation.search.found import Trace
from robustcheck.models.access import Gradients
from robustcheck.models.batches import batches
from robustcheck.models.grey_levels import shares_of
from robustcheck.models.memory import Chunks
from robustcheck.threats.patch import PLACEMENT_DRAWS, NoPlaceError, Placements, Placing, lay

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
        """A pool of so many of them at most, at equal distances."""
        return Pool.of(self.samples, self.numbers[:: -(-len(self) // most)], self.keep_out)

    def fitting(self, placing: Placing) -> Pool:
        """The samples that a patch has a place on, however it is drawn.

        Raises:
            EvaluationError: there is none.
        """
        refused = dict(self.refusals(placing))
        if len(refused) == len(self) > 0:
            raise refused[0]
        kept = [number for place, number in enumerate(self.numbers) if place not in refused]
        return Pool.of(self.samples, kept, self.keep_out)

    def refusals(self, placing: Placing) -> Iterator[tuple[int, EvaluationError]]:
        """The samples without a place for the patch, by place in the pool, each with its error."""
        tried = dict[tuple[Shape, bytes | None], EvaluationError | NoPlaceError | None]()
        for at in range(len(self)):
            shape, mask = self.shape(at), self.mask(at)
            alike = shape, None if mask is None else hashlib.sha256(mask.tobytes()).digest()
            if alike not in tried:
                tried[alike] = _refusal(placing, shape, mask)
            if (why := tried[alike]) is not None:
                yield at, self._no_place(placing, at) if isinstance(why, NoPlaceError) else why

    def _no_place(self, placing: Placing, at: int) -> DataError:
        return DataError(
            f"a patch of {placing.size.text} has no place on {self.name(at)} without covering what "
            "attack.keep_out says it may not; give a smaller size, or less to keep out of"
        )

    def name(self, place: int) -> str:
        """What the sample is called in its source."""
        return self.samples.names[self.numbers[place]]

    def shape(self, place: int) -> Shape:
        """(C, H, W)."""
        return self.samples.shape_of(self.numbers[place])

    def batch(self, places: Sequence[int], device: torch.device) -> torch.Tensor:
        """Images of one shape (M, C, H, W), as shares of the range."""
        images = [self._keep("image", place, lambda at: self.samples.image(self.numbers[at])) for place in places]
        return shares_of(torch.from_numpy(np.stack(images)).to(device), self.samples.maximum)

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
        try:
            return placing.draw(uniform, height, width, self.masks(places, uniform.device))
        except NoPlaceError as error:
            raise self._no_place(placing, places[error.row]) from None

    def masks(self, places: Sequence[int], device: torch.device) -> torch.Tensor | None:
        """What may not be covered (M, H, W) of images of one shape."""
        masks = [mask for place in places if (mask := self.mask(place)) is not None]
        return torch.from_numpy(np.stack(masks)).to(device) if masks else None

    def mask(self, place: int) -> np.ndarray | None:
        """What may not be covered (H, W) of one."""
        area = self.keep_out
        if area is None:
            return None
        return self._keep("mask", place, lambda at: area.mask(self.name(at), *self.shape(at)[1:]))


def _refusal(placing: Placing, shape: Shape, keep_out: np.ndarray | None) -> EvaluationError | NoPlaceError | None:
    """What is wrong with images of a shape on which this (H, W) may not be covered."""
    try:
        placing.check_room(*shape[1:], None if keep_out is None else torch.from_numpy(keep_out))
    except (EvaluationError, NoPlaceError) as error:
        return error
    return None


@dataclass(kw_only=True)
class Trainer:
    """Patches, trained on the gradients of a model."""

    attack: PatchTraining
    placing: Placing
    access: Gradients
    eot: ConditionsEOT | None  # one look at each placement, if images are seen under conditions
    pool: Pool
    device: torch.device
    placements: int  # a step and patch
    chunks: Chunks  # of them, that are laid on images together
    key: Callable[[str, int], int]  # of the draws of a patch's name, in a slot of its batch
    progress: Callable[[int, int], None]  # steps made, of
    trace: Trace = field(default_factory=Trace)  # what gradients were like; samples by their place in the pool
    followed: set[str] = field(default_factory=set)  # names of patches that had a gradient to follow

    def for_all(
        self, shape: Shape, restart: int, *, toward: str = "", places: Sequence[int] | None = None
    ) -> torch.Tensor:
        """One patch (1, C, S, S) for all images of the pool, or those at some places; each step draws some of them.

        Args:
            shape: of the patch.
            restart: how many were made before it, toward the same.
            toward: what sets its draws apart from those of patches that are to do something else.
            places: in the pool.
        """
        name = f"{toward}restart {restart}"
        among = range(len(self.pool)) if places is None else places
        draws = Draws.of([self.key(name, slot) for slot in range(self.placements)], self.device)
        one = torch.zeros(self.placements, dtype=torch.int64, device=self.device)

        def chosen(numbers: torch.Tensor) -> list[int]:
            chosen: list[int] = (numbers * len(among)).long().clamp_max(len(among) - 1).tolist()
            return [among[number] for number in chosen]

        return self._train(shape, draws, one, chosen, [name], restart)

    def for_each(self, shape: Shape, numbers: Sequence[int]) -> torch.Tensor:
        """A patch (N, C, S, S) for each of these images of the pool, of one shape."""
        names = [self.pool.name(number) for number in numbers]
        draws = Draws.of([self.key(name, slot) for name in names for slot in range(self.placements)], self.device)
        own = torch.arange(len(numbers), device=self.device).repeat_interleave(self.placements)
        each = [number for number in numbers for _ in range(self.placements)]
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
            numbers = draws.uniform((1 + PLACEMENT_DRAWS,), at=step)
            gradient = self._gradient(state["patches"], owner, chosen(numbers[:, 0]), numbers[:, 1:], draws, step)
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
        """Mean gradient of each patch (R, C, S, S) over B placements: whose (B,) they are, and on which images.

        Placements whose gradient is not finite are left out. They are added up one after another, whatever the batch,
        but on GPUs in any order.
        """
        total, usable = torch.zeros_like(patches), torch.zeros(len(patches), device=self.device)

        def follow(slots: torch.Tensor) -> tuple[torch.Tensor]:
            members = [numbers[slot] for slot in slots.tolist()]
            images, labels = self.pool.batch(members, self.device), self.pool.labels[members].to(self.device)
            at = self.pool.placements(members, self.placing, uniform[slots])
            textures = patches.detach()[owner[slots]].requires_grad_()
            with torch.enable_grad():
                placed = lay(textures, images, at, self.placing.outline)
            given = (placed.detach(), labels, labels, self.attack.objective)
            if self.eot is None:
                _, loss, gradient = self.access.gradient(*given)
            else:
                steps = torch.full((len(slots),), step, device=self.device)
                _, loss, gradient = self.eot.gradient(self.access, *given, draws.rows(slots), steps)
            (own,) = torch.autograd.grad(placed, textures, gradient)
            finite = self._finite(own, loss, members)
            total.index_add_(0, owner[slots], torch.where(finite[:, None, None, None], own, 0.0))
            usable.index_add_(0, owner[slots], finite.float())
            return (finite,)

        for alike in batches(range(len(numbers)), lambda slot: self.pool.shape(numbers[slot])):
            self.chunks(follow, torch.tensor(alike, device=self.device))
        return total / usable.clamp_min(1)[:, None, None, None]

    def _finite(self, gradients: torch.Tensor, losses: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Which (B,) of the gradients (B, C, S, S) on these images are finite; what they are like is noted.

        A gradient of zero shows nothing where the image is turned: the log-probability has nowhere to rise there.
        """
        steepness = gradients.flatten(1).abs().amax(dim=1)
        finite = steepness.isfinite()
        self.trace.gradients += len(places)
        self.trace.gradients_zero += int(((steepness == 0) & (losses < log(0.5))).sum())
        if not finite.all():
            self.trace.gradients_not_finite += int((~finite).sum())
            lost = (~finite).tolist()
            self.trace.not_finite.update(place for place, gone in zip(places, lost, strict=True) if gone)
        return finite
