"""A policy under evaluation: when each gate runs, what it takes from others, and which it is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import torch

from robustcheck.attacks.draws import key
from robustcheck.errors import EvaluationError
from robustcheck.evaluation.adversary import goal_of
from robustcheck.evaluation.environment import environment
from robustcheck.evaluation.failures import as_evaluation_error, raise_if_error
from robustcheck.evaluation.gates import run_gate
from robustcheck.evaluation.health.comparing import comparable, compared
from robustcheck.evaluation.image_files import ImageWriter
from robustcheck.evaluation.opening import Opening
from robustcheck.evaluation.progress import Listener, silent
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.threat import threat_of
from robustcheck.models.process_settings import freed_memory_kept, left_as_found
from robustcheck.policy import Gate, NoiseSpec, Policy
from robustcheck.results import DataInfo, GateResult, Interruption, ModelInfo
from robustcheck.words import last_line


class Evaluation:
    """Evaluates the gates of one policy, each once.

    Args:
        policy: what is asked.
        folder: where counterexamples are written; None writes none.
        progress: told how far long work is.
    """

    def __init__(self, policy: Policy, *, folder: Path | None = None, progress: Listener | None = None) -> None:
        self.policy = policy
        listener = progress or silent
        self._opening = Opening(
            policy=policy,
            images=ImageWriter(folder, [gate.id for gate in policy.gates]),
            listener=listener,
            progress=lambda done, of: listener(self._running, done, of),
        )
        self._running = "loading"  # or the gate that is evaluated
        self.interruption: Interruption | None = None  # of the gate that Ctrl-C stopped
        self._results: dict[str, GateResult] = {}
        self._compared: set[str] = set()  # gates whose results were put beside others'

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
        for gate in self.ladder(gate_id):
            if gate.id not in self._results and (selected is None or gate.id in selected or gate.id == gate_id):
                self._results[gate.id] = self._evaluate(gate, selected)
                if isinstance(self._setting_or_error, Setting):
                    self._setting_or_error.memory.warm_starts.through(gate.entry)
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
        if own.verdict not in ("pass", "inconclusive") or own.id not in self.setting.memory.verdict_if:
            return own  # a failed gate stays failed, whatever others broke; and some gates are compared with no others
        names = [one.id for one in self.weaker(own.id) if selected is None or one.id in selected]
        others = [elsewhere(name) if elsewhere else self.gate(name, selected=selected) for name in names]
        larger = [self.gate(name, selected=selected, elsewhere=elsewhere) for name in self._stand_for(own)]
        if not others and not larger:
            return own
        setting = self.setting
        asked, head = self._asked(own.id), setting.candidate.head
        goal = goal_of(asked, setting.about(asked.finding))
        return compared(
            own,
            others,
            larger,
            strict=setting.strict,
            verdict_if=setting.memory.verdict_if[own.id],
            wanted=None if goal.toward is None else head.name(goal.toward),
            multilabel=goal.multilabel,
            positive=None if head.positive is None else head.labels[head.positive],
        )

    def _stand_for(self, own: GateResult) -> list[str]:
        """Gates whose searches stand for what held in this one: those before it on a descending ladder."""
        if not any(sample.status == "held" and sample.evidence == "inherited" for sample in own.samples):
            return []
        ladder = self.ladder(own.id)
        gate = self._asked(own.id)
        before = ladder[: ladder.index(gate)]
        return [one.id for one in before if one.descending and one.entry == gate.entry and one.id in self._results]

    def weaker(self, gate_id: str) -> list[Gate]:
        """Gates whose counterexamples also count against this one, and which never wait for it."""
        own = self._asked(gate_id)
        isolated = self.policy.evidence == "isolated"
        others = [gate for gate in self.policy.gates if comparable(own, gate, isolated=isolated)]
        setting = self._setting_or_error
        if not others or isinstance(setting, EvaluationError):
            return []
        return [gate for gate in others if gate.levels(setting.samples.bits) <= own.levels(setting.samples.bits)]

    def _noise(self, gate_id: str, selected: Sequence[str] | None) -> bool:
        """Whether a gate is compared with noise of its own budget that is among the gates that are run."""
        own = self._asked(gate_id)
        noise = (
            one.id
            for one in self.weaker(gate_id)
            if isinstance(one.attack, NoiseSpec)
            and (one.queries, one.oracle) == (own.queries, own.oracle)
            and one.levels(self.setting.samples.bits) == own.levels(self.setting.samples.bits)
        )
        return any(selected is None or name in selected for name in noise)

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

    def ladder(self, gate_id: str) -> list[Gate]:
        """The same gates in the order in which they are evaluated."""
        return sorted(self.family(gate_id), key=self._rung)

    @property
    def order(self) -> tuple[str, ...]:
        """The ids of all gates in the order in which a run evaluates them, unless one waits for some that are later."""
        found = dict[str, None]()
        for gate in self.policy.gates:
            ladder = self.ladder(gate.id)
            found |= dict.fromkeys(one.id for one in ladder[: ladder.index(gate) + 1])
        return tuple(found)

    def _rung(self, gate: Gate) -> Fraction:
        """A sort key in grey levels: equal ones keep the policy's order, and ladders go down before others go up."""
        setting = self._setting_or_error  # the depth, and so which budget is larger, may be known only from files
        if gate.epsilon is None or isinstance(setting, EvaluationError):
            return Fraction(0)
        levels = gate.levels(setting.samples.bits)
        return -levels if gate.descending else levels

    @property
    def model(self) -> ModelInfo | None:
        """The candidate, once it has been loaded."""
        candidate = self._opening.candidate
        return None if candidate is None else candidate.info

    @property
    def data(self) -> DataInfo | None:
        """The samples, once they have been loaded."""
        return self._opening.data

    @property
    def setting(self) -> Setting:
        """Samples and candidate, loaded now unless they have been.

        Raises:
            EvaluationError: they cannot be; the message is for the person who typed the policy.
        """
        return raise_if_error(self._setting_or_error)

    @property
    def environment(self) -> dict[str, str]:
        """Versions and machine."""
        candidate = self._opening.candidate
        return environment(None if candidate is None else candidate.device)

    def _evaluate(self, gate: Gate, selected: Sequence[str] | None) -> GateResult:
        setting = self._setting_or_error
        if isinstance(setting, EvaluationError):
            return self._error(gate, str(setting))
        self._running, began = gate.id, time.monotonic()
        try:
            with as_evaluation_error(), left_as_found(), freed_memory_kept():  # a candidate may draw, and set threads
                torch.manual_seed(key(setting.seed, gate.id, "chance", 0))  # for what candidates and surrogates draw
                shared, noise = self.policy.evidence == "shared", self._noise(gate.id, selected)
                return run_gate(gate, setting.about(gate.finding), shared=shared, beside_noise=noise)
        except EvaluationError as error:
            return self._error(gate, str(error))
        except KeyboardInterrupt:
            self.interruption = Interruption(gate=gate.id, seconds=round(time.monotonic() - began, 3))
            raise
        except BaseException as error:  # a time limit, say: it is reported, and does not hit related gates again
            self._results[gate.id] = self._error(gate, f"it was stopped: {last_line(error)}")
            raise

    def not_evaluated(self, gate_id: str, why: str) -> GateResult:
        """The result of a gate that something outside it kept from being evaluated; it is not remembered."""
        return self._error(self._asked(gate_id), why)

    def _error(self, gate: Gate, message: str) -> GateResult:
        bits = self.data.bits if self.data else self.policy.data.bits
        return GateResult(
            id=gate.id,
            attack=gate.attack_name,
            parameters=gate.parameters,
            threat=threat_of(gate, bits) if bits and gate.attack else None,
            verdict="error",
            error=message,
        )

    @property
    def _setting_or_error(self) -> Setting | EvaluationError:
        return self._opening.setting
