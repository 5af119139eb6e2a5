"""From hits to the ledger: the nearest counterexample of each sample is written as the sample leaves its search."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np
import torch

from robustcheck.evaluation.search.ledger import Counterexample, Entry
from robustcheck.evaluation.search.loop import Hit
from robustcheck.evaluation.setting import Setting
from robustcheck.policy import Gate


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """The nearest counterexamples of samples that are under way; when samples leave, they are recorded and dropped.

    As a context, it records what is left at its end, after an interruption too.
    """

    gate: Gate
    setting: Setting
    family: Hashable  # gates that share counterexamples
    warm_starts_of: Sequence[str]  # attacks that begin on the way to counterexamples found here
    hits: dict[int, Hit] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.record(list(self.hits))

    def keep(self, hit: Hit) -> None:
        """Keep it if it is the nearest of its sample."""
        if hit.sample not in self.hits or hit.distance < self.hits[hit.sample].distance:
            self.hits[hit.sample] = hit

    def record(self, samples: Sequence[int]) -> None:
        """Record what was found of these."""
        for sample in samples:
            if sample in self.hits:
                self._add_to_ledger(self.hits.pop(sample))

    def _add_to_ledger(self, hit: Hit) -> None:
        gate, setting = self.gate, self.setting
        if not setting.memory.ledger.improves(self.family, hit.sample, hit.distance):
            return
        file, sha256 = setting.images.counterexample(gate.id, hit.sample, hit.stored)
        found = {one.name: getattr(hit, one.name) for one in fields(Counterexample)}
        setting.memory.ledger.add(self.family, hit.sample, Entry(found_by=gate.id, file=file, sha256=sha256, **found))
        if self.warm_starts_of:
            change = torch.from_numpy(hit.stored.astype(np.float32) - setting.samples.image(hit.sample))[None]
            for attack in self.warm_starts_of:
                setting.memory.warm_starts.keep(gate.entry, attack, np.array([hit.sample]), change)
