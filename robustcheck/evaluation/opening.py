"""Loads once what all gates of a policy need: samples, candidate, and what attacks learn from and follow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod

import numpy as np
import torch

from robustcheck.data import Samples, in_random_order, load_samples
from robustcheck.errors import EvaluationError
from robustcheck.evaluation.failures import raise_if_error, value_or_error
from robustcheck.evaluation.image_files import ImageWriter
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.progress import Listener, Tell
from robustcheck.evaluation.search.warm_starts import WarmStarts
from robustcheck.evaluation.setting import Memory, Setting
from robustcheck.evaluation.surrogates.lessons import FOR_PATCHES, FOR_SURROGATES, Need, check_channels, train_split
from robustcheck.evaluation.surrogates.loading import LoadedSurrogate, load_surrogates
from robustcheck.models import Candidate, load_candidate
from robustcheck.models.process_settings import freed_memory_kept, left_as_found
from robustcheck.policy import APGDSpec, EnsembleSpec, Gate, PGDSpec, Policy, SurrogatesEntry, TransferSpec
from robustcheck.results import DataInfo


@dataclass(kw_only=True)
class Opening:
    """Loads what a policy names when the first gate needs it, and says how far it has come.

    Args:
        policy: what is asked.
        images: writes counterexamples.
        listener: told how far loading is.
        progress: told how far a gate's searches are.
    """

    policy: Policy
    images: ImageWriter
    listener: Listener
    progress: Tell
    data: DataInfo | None = field(default=None, init=False)  # of the samples, once they have been loaded
    candidate: Candidate | None = field(default=None, init=False)  # once it has been
    _train_samples: Samples | None = field(default=None, init=False)
    _answers: dict[int, int] = field(default_factory=dict, init=False)  # the candidate's on the train split, by number
    _loaded_surrogates: dict[str, list[LoadedSurrogate] | EvaluationError] = field(default_factory=dict, init=False)

    @cached_property
    def setting(self) -> Setting | EvaluationError:
        """Samples and candidate, or why they cannot be loaded."""
        with left_as_found(), freed_memory_kept():
            return value_or_error(self._load)

    def _load(self) -> Setting:
        policy = self.policy
        samples = load_samples(policy.data, policy.model, folder=policy.folder, seed=policy.seed)
        self.data = replace(samples.info, prevalence=policy.data.prevalence)
        candidate, logits = load_candidate(
            policy.model,
            folder=policy.folder,
            samples=samples,
            seed=policy.seed,
            oracles=any(map(_asks, policy.gates)),
            progress=partial(self.listener, "loading"),
        )
        self.candidate = candidate
        range_notes = samples.images.late_notes
        if samples.hounsfield is not None and policy.model.preprocess.window:  # which says what part of CT is seen
            range_notes = ()
        self.data = replace(self.data, notes=(*self.data.notes, *range_notes))
        intervals = Intervals(confidence=policy.decision.confidence, kind=policy.decision.interval)
        return Setting(
            candidate=candidate,
            samples=samples,
            labels=torch.tensor(samples.labels, dtype=torch.int64),
            logits=logits,
            decisions=candidate.head.decide(logits),
            positive_probabilities=candidate.head.positive_probability(logits),
            prevalence=policy.data.prevalence,
            range_notes=range_notes,
            seed=policy.seed,
            rule=policy.decision.rule,
            strict=policy.health == "strict",
            intervals=intervals,
            anytime_intervals=intervals if policy.decision.stop == "never" else replace(intervals, kind="anytime"),
            stop=policy.decision.stop,
            order=_order(policy, samples),
            memory=Memory(
                warm_starts=WarmStarts(
                    sum(prod(samples.shape_of(index)) for index in range(len(samples))),
                    _budgets_of_entries(policy),
                    {gate.entry: searches_from_ends(gate) for gate in policy.gates},
                )
            ),
            images=self.images,
            progress=self.progress,
            load_surrogates=lambda attack: self._surrogates(attack, candidate, samples),
            train_split=partial(self._train_split, FOR_PATCHES, samples),
            folder=policy.folder,
        )

    def _train_split(self, need: Need, judged: Samples) -> Samples:
        """What surrogates and patches learn from: read once, and checked for the one who needs it now."""
        data = self.policy.data
        if self._train_samples is None:
            self._train_samples = train_split(data, self.policy.model, self.policy.folder, need, judged)
        check_channels(data, self._train_samples, need, judged)
        return self._train_samples

    def _surrogates(self, attack: SurrogatesEntry, candidate: Candidate, samples: Samples) -> list[LoadedSurrogate]:
        """The models that an attack follows; gates that name the same ones share them."""
        named = attack.model_dump_json(include={"surrogate", "train"})
        if named not in self._loaded_surrogates:
            self._loaded_surrogates[named] = value_or_error(
                lambda: load_surrogates(
                    attack,
                    model=self.policy.model,
                    split=partial(self._train_split, FOR_SURROGATES, samples),
                    candidate=candidate,
                    # The answers of a candidate that draws depend on which gate asks first.
                    answers=self._answers if candidate.randomness is None else {},
                    samples=samples,
                    folder=self.policy.folder,
                    progress=partial(self.listener, "surrogates"),
                )
            )
        return raise_if_error(self._loaded_surrogates[named])


def _asks(gate: Gate) -> bool:
    """Whether oracles answer about the candidate: to its adversary, or to who trains a surrogate on its labels."""
    trained = gate.surrogates.train if gate.surrogates is not None else ()
    return gate.queries is not None or any(spec.labels == "candidate" for spec in trained)


def _order(policy: Policy, samples: Samples) -> np.ndarray:
    """The samples in their own order, or in a random one if a gate may stop before the last one."""
    if policy.decision.stop == "never":
        return np.arange(len(samples))
    return in_random_order(samples.names, seed=policy.seed)


def _budgets_of_entries(policy: Policy) -> Counter[str]:
    """How many gates of each entry have searches that may begin where those of the others ended."""
    if policy.evidence == "isolated":
        return Counter()
    return Counter(gate.entry for gate in policy.gates if gate.family is not None and not gate.asks)


def searches_from_ends(gate: Gate) -> int:
    """How many searches of a gate begin where those at another budget ended; see `begins_anywhere`."""
    attack, quick = gate.attack, 1 if gate.descending else 0
    if isinstance(attack, EnsembleSpec):
        return 2 + quick
    own = isinstance(attack, APGDSpec) or (isinstance(attack, PGDSpec) and attack.random_start)
    own = own or (isinstance(attack, TransferSpec) and attack.restarts > 1)
    return quick + (1 if own else 0)
