"""A policy under evaluation: everything is loaded once, when the first gate needs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, partial
from math import prod
from pathlib import Path

import numpy as np
import torch

from robustcheck.attacks.draws import key
from robustcheck.data import Samples, in_random_order, load_samples
from robustcheck.errors import EvaluationError
from robustcheck.evaluation.adversary import goal_of
from robustcheck.evaluation.environment import environment
from robustcheck.evaluation.evidence import EvidenceWriter
from robustcheck.evaluation.failures import as_evaluation_error, raise_if_error, value_or_error
from robustcheck.evaluation.gates import run_gate
from robustcheck.evaluation.health.comparing import comparable, compared
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.search.warm_starts import WarmStarts
from robustcheck.evaluation.setting import Memory, Setting
from robustcheck.evaluation.surrogates.lessons import FOR_PATCHES, FOR_SURROGATES, Need, train_split
from robustcheck.evaluation.surrogates.loading import LoadedSurrogate, load_surrogates
from robustcheck.evaluation.threat import threat
from robustcheck.models import Candidate, load_candidate
from robustcheck.models.process import freed_memory_kept, left_as_found
from robustcheck.policy import APGDSpec, EnsembleSpec, Gate, PGDSpec, Policy, SurrogatesEntry, TransferSpec
from robustcheck.results import DataInfo, GateResult, ModelInfo
from robustcheck.words import last_line

Progress = Callable[[str, int, int], None]
"""Called with what is being done (a gate's id, or "loading"), how many samples are done, and of how many."""


def _silent(_what: str, _done: int, _of: int) -> None:
    """No progress wanted."""


class Evaluation:
    """Evaluates the gates of one policy, each once.

    Args:
        policy: what is asked.
        folder: where counterexamples are written; None writes none.
        progress: told how far long work is.
    """

    def __init__(self, policy: Policy, *, folder: Path | None = None, progress: Progress | None = None) -> None:
        self.policy = policy
        self._evidence = EvidenceWriter(folder, [gate.id for gate in policy.gates])
        self._progress = progress or _silent
        self._running = "loading"
        self._results: dict[str, GateResult] = {}
        self._compared: set[str] = set()  # gates whose results were put beside others'
        self._data: DataInfo | None = None
        self._model: ModelInfo | None = None
        self._device: torch.device | None = None
        self._train_samples: Samples | None = None
        self._answers: dict[int, int] = {}  # of the candidate about the train split, which surrogates learn
        self._loaded_surrogates: dict[str, list[LoadedSurrogate] | EvaluationError] = {}

    def gate(
        self,
        gate_id: str,
        *,
        selected: Sequence[str] | None = None,
        elsewhere: Callable[[str], GateResult] | None = None,
    ) -> GateResult:
        """The result of a gate, evaluated now unless it has been.

        Gates of its family with smaller budgets, and those of descending ladders, are evaluated first, if they are
        among the `selected` ones (default: all): what a gate inherits must not depend on the order in which gates are
        written, or asked for. A gate that would pass is compared with those whose adversaries know less, which are
        evaluated for it; `elsewhere` says where else their results may come from.
        """
        for gate in sorted(self.family(gate_id), key=self._budget):
            if gate.id not in self._results and (selected is None or gate.id in selected or gate.id == gate_id):
                self._results[gate.id] = self._evaluate(gate)
                if isinstance(self._setting, Setting):
                    self._setting.memory.warm_starts.through(gate.entry)
            if gate.id == gate_id:
                break
        if gate_id not in self._compared:
            self._results[gate_id] = self._beside_others(self._results[gate_id], selected, elsewhere)
            self._compared.add(gate_id)
        return self._results[gate_id]

    def _beside_others(
        self,
        own: GateResult,
        selected: Sequence[str] | None,
        elsewhere: Callable[[str], GateResult] | None,
    ) -> GateResult:
        if own.verdict not in ("pass", "inconclusive") or own.id not in self.setting.memory.judged_with:
            return own  # what failed has failed, whoever else would have broken more; and some are compared with nobody
        names = [one.id for one in self._weaker(own.id) if selected is None or one.id in selected]
        others = [elsewhere(name) if elsewhere else self.gate(name, selected=selected) for name in names]
        larger = [self.gate(name, selected=selected, elsewhere=elsewhere) for name in self._stand_for(own)]
        if not others and not larger:
            return own
        setting = self.setting
        goal, head = goal_of(self._asked(own.id), setting), setting.candidate.head
        return compared(
            own,
            others,
            larger,
            strict=setting.strict,
            judged_with=setting.memory.judged_with[own.id],
            wanted=None if goal.toward is None else head.name(goal.toward),
            multilabel=goal.multilabel,
        )

    def _stand_for(self, own: GateResult) -> list[str]:
        """Gates whose searches stand for what held in this one: those before it on a descending ladder."""
        if not any(sample.status == "held" and sample.evidence == "inherited" for sample in own.samples):
            return []
        ladder = sorted(self.family(own.id), key=self._budget)
        gate = self._asked(own.id)
        before = ladder[: ladder.index(gate)]
        return [one.id for one in before if one.descending and one.entry == gate.entry and one.id in self._results]

    def _weaker(self, gate_id: str) -> list[Gate]:
        """Gates whose counterexamples also count against this one, and which never wait for it."""
        own = self._asked(gate_id)
        isolated = self.policy.evidence == "isolated"
        others = [gate for gate in self.policy.gates if comparable(own, gate, isolated=isolated)]
        setting = self._setting
        if not others or isinstance(setting, EvaluationError):
            return []
        return [gate for gate in others if gate.levels(setting.samples.bits) <= own.levels(setting.samples.bits)]

    def _asked(self, gate_id: str) -> Gate:
        """What the policy asks under this id."""
        (gate,) = (one for one in self.policy.gates if one.id == gate_id)
        return gate

    def family(self, gate_id: str) -> list[Gate]:
        """The gates that share evidence with one, itself included, in the policy's order."""
        own = self._asked(gate_id)
        if own.family is None or self.policy.evidence == "isolated":
            return [own]
        return [gate for gate in self.policy.gates if gate.family == own.family]

    def _budget(self, gate: Gate) -> Fraction:
        """A sort key in grey levels: equal ones keep the policy's order, and ladders go down before others go up."""
        setting = self._setting  # files alone may say how deep they are, and so which budget is the larger
        if gate.epsilon is None or isinstance(setting, EvaluationError):
            return Fraction(0)
        levels = gate.levels(setting.samples.bits)
        return -levels if gate.descending else levels

    @property
    def model(self) -> ModelInfo | None:
        """The candidate, once it has been loaded."""
        return self._model

    @property
    def data(self) -> DataInfo | None:
        """The samples, once they have been loaded."""
        return self._data

    @property
    def setting(self) -> Setting:
        """Samples and candidate, loaded now unless they have been.

        Raises:
            EvaluationError: they cannot be; the message is for the person who typed the policy.
        """
        return raise_if_error(self._setting)

    @property
    def environment(self) -> dict[str, str]:
        """Versions and machine."""
        return environment(self._device)

    def _evaluate(self, gate: Gate) -> GateResult:
        setting = self._setting
        if isinstance(setting, EvaluationError):
            return self._error(gate, str(setting))
        self._running = gate.id
        try:
            with as_evaluation_error(), left_as_found(), freed_memory_kept():  # a candidate may draw, and set threads
                torch.manual_seed(key(setting.seed, gate.id, "chance", 0))  # of what candidates and surrogates draw
                return run_gate(gate, setting, shared=self.policy.evidence == "shared")
        except EvaluationError as error:
            return self._error(gate, str(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a time limit, say: it is told, and does not strike the gate's relatives again
            self._results[gate.id] = self._error(gate, f"it was stopped: {last_line(error)}")
            raise

    def _error(self, gate: Gate, message: str) -> GateResult:
        bits = self._data.bits if self._data else self.policy.data.bits
        return GateResult(
            id=gate.id,
            attack=gate.attack_name,
            parameters=gate.parameters,
            threat=threat(gate, bits) if bits and gate.attack else None,
            verdict="error",
            error=message,
        )

    @cached_property
    def _setting(self) -> Setting | EvaluationError:
        """Samples and candidate, loaded once."""
        with left_as_found(), freed_memory_kept():
            return value_or_error(self._load)

    def _load(self) -> Setting:
        policy = self.policy
        samples = load_samples(policy.data, policy.model, folder=policy.folder, seed=policy.seed)
        self._data = replace(samples.info, prevalence=policy.data.prevalence)
        candidate, logits = load_candidate(
            policy.model,
            folder=policy.folder,
            samples=samples,
            seed=policy.seed,
            progress=lambda done, of: self._progress("loading", done, of),
        )
        self._model, self._device = candidate.info, candidate.device
        if not (samples.hounsfield is not None and policy.model.preprocess.window):  # which says what of CT is seen
            self._data = replace(self._data, notes=(*self._data.notes, *samples.images.late_notes))
        intervals = Intervals(confidence=policy.decision.confidence, kind=policy.decision.interval)
        return Setting(
            candidate=candidate,
            samples=samples,
            labels=torch.tensor(samples.labels, dtype=torch.int64),
            logits=logits,
            decisions=candidate.head.decide(logits),
            scores=candidate.head.positive_probability(logits),
            prevalence=policy.data.prevalence,
            seed=policy.seed,
            rule=policy.decision.rule,
            strict=policy.health == "strict",
            intervals=intervals,
            sequential=intervals if policy.decision.stop == "never" else replace(intervals, kind="anytime"),
            stop=policy.decision.stop,
            order=_order(policy, samples),
            memory=Memory(
                warm_starts=WarmStarts(
                    sum(prod(samples.shape_of(index)) for index in range(len(samples))),
                    _budgets_of_entries(policy),
                    {gate.entry: searches_from_ends(gate) for gate in policy.gates},
                )
            ),
            evidence=self._evidence,
            progress=lambda done, of: self._progress(self._running, done, of),
            surrogates=lambda attack: self._surrogates(attack, candidate, samples),
            train_split=partial(self._train_split, FOR_PATCHES, samples),
            folder=policy.folder,
        )

    def _train_split(self, need: Need, judged: Samples) -> Samples:
        """What surrogates and patches learn from, read once."""
        if self._train_samples is None:
            data, model, folder = self.policy.data, self.policy.model, self.policy.folder
            self._train_samples = train_split(data, model, folder, need, judged)
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
                    answers=self._answers,
                    samples=samples,
                    folder=self.policy.folder,
                    progress=lambda done, of: self._progress("surrogates", done, of),
                )
            )
        return raise_if_error(self._loaded_surrogates[named])


def _order(policy: Policy, samples: Samples) -> np.ndarray:
    """The samples as they are written, or at random where a gate may stop before the last one."""
    if policy.decision.stop == "never":
        return np.arange(len(samples))
    return in_random_order(samples.names, seed=policy.seed)


def _budgets_of_entries(policy: Policy) -> Counter[str]:
    """How many gates an entry has whose searches may begin where those of the others ended."""
    if policy.evidence == "isolated":
        return Counter()
    return Counter(gate.entry for gate in policy.gates if gate.family is not None and not gate.asks)


def searches_from_ends(gate: Gate) -> int:
    """How many searches of a gate begin where those at another budget ended; see `begins_anywhere`."""
    attack = gate.attack
    if isinstance(attack, EnsembleSpec):
        return 2 + gate.descending
    own = isinstance(attack, APGDSpec) or (isinstance(attack, PGDSpec) and attack.random_start)
    own = own or (isinstance(attack, TransferSpec) and attack.restarts > 1)
    return own + gate.descending
