"""A network before it is a candidate: it is run on the samples while the kind of its scores is unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, log2, prod

import torch

from robustcheck.data.samples import Samples, Shape
from robustcheck.errors import CandidateError
from robustcheck.models.batches import as_shares, batches
from robustcheck.models.candidate import Meter, raw_scores
from robustcheck.models.memory import Chunks
from robustcheck.models.network import Network
from robustcheck.models.preprocess import Preprocess
from robustcheck.policy import ModelSpec

_FAR = 1000.0  # times as bright as an image
_ROOMY = 64 * 2**30  # bytes: with this much free memory, a GPU is given batches of the whole budget


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A network, its preprocessing, and the samples that it is run on."""

    samples: Samples
    shapes: Sequence[Shape]  # (C, H, W) of each of the N samples
    network: Network
    preprocess: Preprocess
    chunks: Chunks
    meter: Meter = field(default_factory=Meter)

    @classmethod
    def of(cls, spec: ModelSpec, network: Network, samples: Samples) -> Trial:
        """The trial of a network that the policy describes so.

        Raises:
            CandidateError: the preprocessing does not take the samples.
        """
        preprocess = Preprocess.of(spec.preprocess, network.device, samples)
        shapes = [samples.shape_of(index) for index in range(len(samples))]
        for shape in set(shapes):
            preprocess.check(shape)
        largest = max(shapes, key=prod)
        chunks = Chunks(_batch_size(spec, preprocess.shape(largest), largest, network.device))
        return cls(samples=samples, shapes=shapes, network=network, preprocess=preprocess, chunks=chunks)

    def ask(self, images: torch.Tensor, at_once: Chunks | None = None) -> torch.Tensor:
        """Raw scores (N, …) of images (N, C, H, W), on the CPU."""
        self.meter.forward += len(images)
        return raw_scores(self.network.forward, self.network, self.preprocess, at_once or self.chunks, images).cpu()

    def all_scores(self, progress: Callable[[int, int], None] | None) -> torch.Tensor:
        """Raw scores (N, …) of all samples; `progress` takes how many are done, and of how many.

        Raises:
            CandidateError: the network does not take them, or gives scores of different shapes.
        """
        rows: dict[int, torch.Tensor] = {}
        for indexes in self._batches(self.chunks.limit):
            rows |= zip(indexes, self.ask(self.load(indexes)), strict=True)
            if progress:
                progress(len(rows), len(self.shapes))
        widths = {row.shape for row in rows.values()}
        if len(widths) != 1:
            raise CandidateError("the candidate gives scores of different shapes for different samples")
        return torch.stack([rows[index] for index in range(len(self.shapes))])

    @property
    def alike(self) -> list[int]:
        """The numbers of all samples that have the first one's shape."""
        return next(self._batches())

    def load(self, indexes: list[int]) -> torch.Tensor:
        """Images (M, C, H, W) of samples of one shape, as shares of the full range."""
        return as_shares(self.samples, indexes, self.network.device)

    @property
    def sizes(self) -> set[Shape]:
        """The shapes that the network is given."""
        return set(map(self.preprocess.shape, self.shapes))

    def other_shapes(self) -> Iterator[torch.Tensor]:
        """Images (M, C, H, W), two of each shape that the network is given, but for the first one's."""
        first, *others = self._batches()
        seen = {self.preprocess.shape(self.shapes[first[0]])}
        for group in others:
            if (shape := self.preprocess.shape(self.shapes[group[0]])) not in seen:
                seen.add(shape)
                yield self.load(group[:2])

    def beyond(self, images: torch.Tensor) -> torch.Tensor | None:
        """Scores on inputs that are far too bright, if the network takes them; a window would cut such images off."""

        def far(inputs: torch.Tensor) -> torch.Tensor:
            return self.network.forward(inputs * _FAR)

        both = torch.cat([images, 1 - images])
        try:
            return raw_scores(far, self.network, self.preprocess, self.chunks, both).cpu()
        except CandidateError:
            return None

    def _batches(self, limit: int | None = None) -> Iterator[list[int]]:
        return batches(range(len(self.shapes)), self.shapes.__getitem__, limit)


def _batch_size(
    spec: ModelSpec, shape: tuple[int, int, int], stored: tuple[int, int, int], device: torch.device
) -> int:
    """How many images (C, H, W) of the network's size, and as they are stored, are worked on at once."""
    if spec.batch_size != "auto":
        return spec.batch_size
    # Activations are some hundred times an input: about 1.5 GB on a CPU, 16 times that on a GPU of much memory. If
    # memory runs out it is halved, and no verdict depends on it; but what else a search holds is not halved.
    # Halved and not scaled: a neighbour on the GPU changes what is free, and batches of another size last bits.
    budget = 2**26 >> max(0, ceil(log2(_ROOMY / max(1, _free(device))))) if device.type == "cuda" else 2**22
    by_network = max(8, min(1024 if device.type == "cuda" else 128, budget // prod(shape)))
    # What is stored may be much larger than what a network is shown, and a search has a dozen copies of it.
    return min(by_network, max(1, 8 * budget // prod(stored)))


def _free(device: torch.device) -> int:
    """Bytes of a GPU's memory that are free, or that torch keeps for reuse, once the network is there."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
