"""From a file to gates: read, validate, check, expand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from robustcheck import words
from robustcheck.errors import PolicyError
from robustcheck.policy import checks, mistakes
from robustcheck.policy.attack_entry import Knowledge
from robustcheck.policy.attack_specs import ASK_AN_ORACLE, AttackSpec
from robustcheck.policy.bounds import Bound
from robustcheck.policy.model_spec import ModelSpec
from robustcheck.policy.patch_specs import PatchSpec
from robustcheck.policy.quantities import Quantity
from robustcheck.policy.query_specs import NoiseSpec, PartialInformationSpec, SlowToBegin
from robustcheck.policy.schema import ABOUT_DISEASE, DataSpec, DecisionSpec, GateSpec, PolicyFile
from robustcheck.policy.sizes import Size
from robustcheck.policy.transfer_spec import SurrogatesEntry
from robustcheck.policy.tree import Mistake, Tree
from robustcheck.policy.viewing_spec import ConditionsSpec
from robustcheck.policy.yamltree import read


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate to run: an entry of the policy's `gates`, for one budget."""

    id: str  # "fgsm", or "pgd[2/255]" for an entry of a list
    attack: AttackSpec | None
    epsilon: Quantity | None
    size: Size | None  # of patches, which have no epsilon
    conditions: ConditionsSpec | None  # how images are seen; None: as they are
    norm: Literal["linf", "l2"]
    goal: Literal["untargeted", "targeted", "missed_finding", "false_alarm"]
    target: str | None
    finding: str | None  # the one of several that its goal is about; None: any, or labels exclude one another
    queries: int | None
    oracle: Literal["float", "stored"]
    descending: bool  # what survives a larger budget of its entry counts as surviving this one
    entry: str  # the id of the policy's entry, which gates of a list share
    bounds: tuple[Bound, ...]

    @property
    def attack_name(self) -> str | None:
        """The attack's name; None for the unattacked metrics."""
        return None if self.attack is None else self.attack.name

    @property
    def parameters(self) -> dict[str, Any]:
        """The attack's parameters as JSON has them, with their defaults."""
        if self.by_patterns:  # its own parameters decide nothing
            assert isinstance(self.attack, SlowToBegin)
            return {"patterns": f"in its place, as its queries pay for fewer than {self.attack.begins_after} steps"}
        return {} if self.attack is None else self.attack.model_dump(mode="json", exclude={"name"})

    @property
    def by_patterns(self) -> bool:
        """Whether random patterns take the place of its attack, because its queries are too few to begin."""
        return (
            isinstance(self.attack, SlowToBegin)
            and self.queries is not None
            and self.attack.by_patterns(queries=self.queries, norm=self.norm, goal=self.goal)
        )

    @property
    def may_stop_early(self) -> bool:
        """Whether samples are taken one after another, so that a policy may have the gate decide before the last one.

        A patch that was trained on some samples is judged on all the others.
        """
        return self.attack is not None and not isinstance(self.attack, PatchSpec)

    @property
    def knowledge(self) -> Knowledge:
        """What the adversary knows about the candidate."""
        if isinstance(self.attack, PatchSpec) and self.attack.patch is not None:
            return "none"
        if self.surrogates is not None:
            return "transfer"
        return "white-box" if self.attack is None else self.attack.knowledge

    def levels(self, bits: int) -> Fraction:
        """The budget in grey levels of images of so many bits; 0 for a gate that has none."""
        return Fraction(0) if self.epsilon is None else self.epsilon.in_levels(bits)

    @property
    def surrogates(self) -> SurrogatesEntry | None:
        """The attack, if it follows other models in the candidate's place."""
        attack = self.attack
        return attack if isinstance(attack, SurrogatesEntry) and (attack.surrogate or attack.train) else None

    @property
    def asks(self) -> bool:
        """Whether the adversary asks the candidate, a limited number of times."""
        return self.attack_name in ASK_AN_ORACLE

    @property
    def top_k(self) -> int | None:
        """How many labels' scores an answer has; None if it has all of them, or none."""
        return self.attack.k if isinstance(self.attack, PartialInformationSpec) else None

    @property
    def family(self) -> tuple[object, ...] | None:
        """Gates of one family may use each other's counterexamples: their adversaries want, know and may ask the same.

        A counterexample that took more queries than a gate allows is out of its adversary's reach, so limits are equal;
        and one surrogate does not tell what another one shows. Noise, which others are compared with, shares nothing.
        """
        if self.attack is None or self.epsilon is None:
            return None
        own: tuple[object, ...] = (self.queries, self.oracle, self.top_k) if self.asks else ()
        if isinstance(self.attack, NoiseSpec):
            own += ("noise",)
        if self.surrogates is not None:
            own += (self.surrogates.model_dump_json(include={"surrogate", "train"}),)
        if self.conditions is not None:
            own += (self.conditions.model_dump_json(exclude={"draws"}),)
        return (*self.wanted, self.knowledge, self.norm, *own)

    @property
    def wanted(self) -> tuple[str, str | None]:
        """What its adversary wants: a goal, and the label or the finding that it is about."""
        return self.goal, self.target or self.finding


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy that can be run: every value has been checked."""

    path: Path
    shown_path: str  # as the user named it
    sha256: str
    text: str  # of the file, whose bytes are these in UTF-8
    name: str
    model: ModelSpec
    data: DataSpec
    seed: int
    gates: tuple[Gate, ...]
    decision: DecisionSpec
    evidence: str
    health: Literal["strict", "warn"]

    @property
    def folder(self) -> Path:
        """Relative paths in the policy start here."""
        return self.path.parent


def load_policy(path: Path | str, *, shown: str | None = None) -> Policy:
    """Read a policy file; `shown` is what messages and reports call it (default: the path as given).

    Raises:
        PolicyError: it cannot be used; the error carries every mistake, each with file, line, key and a sentence.
    """
    shown_path = shown if shown is not None else str(path)
    content, tree = read(Path(path), shown_path)
    path = Path(os.path.realpath(path))  # a link's relative paths start where the file itself lies
    file = _checked(tree, path.parent)
    return Policy(
        path=path,
        shown_path=shown_path,
        sha256=hashlib.sha256(content).hexdigest(),
        text=content.decode(),
        name=file.name or path.stem,
        model=file.model,
        data=file.data,
        seed=file.seed,
        gates=tuple(
            gate
            for spec, written in zip(file.gates, tree.data["gates"], strict=True)
            for gate in _expand(
                spec, file.model, listed=any(isinstance(written.get(key), list) for key in ("epsilon", "size"))
            )
        ),
        decision=file.decision,
        evidence=file.evidence,
        health=file.health,
    )


def _checked(tree: Tree, folder: Path) -> PolicyFile:
    """The document, or every mistake in it."""
    if not isinstance(tree.data, dict):
        message = f"holds {words.shown(tree.data)}; a policy is a mapping that begins with `robustcheck: 1`"
        raise PolicyError(tree.problems([Mistake(path=(), message=message)]))
    found, file = checks.find(tree.data, folder), None
    try:
        file = PolicyFile.model_validate(tree.data)
    except ValidationError as error:
        found += mistakes.find(error, tree.data)
    problems = tree.problems(found)
    if problems or file is None:
        raise PolicyError(problems)
    return file


def _expand(spec: GateSpec, model: ModelSpec, *, listed: bool) -> Iterator[Gate]:
    """One gate for each entry of a list of budgets; a list of one is a list, too: ids do not change as it grows."""
    budgets: tuple[Quantity | Size | None, ...] = spec.epsilon or spec.size or (None,)
    target = spec.attack.target if isinstance(spec.attack, PatchSpec) and spec.attack.target else spec.target
    attack = spec.attack.beside(model.preprocess) if isinstance(spec.attack, SurrogatesEntry) else spec.attack
    for index, budget in enumerate(budgets):
        yield Gate(
            id=f"{spec.id}[{budget.text}]" if listed and budget else spec.id,
            attack=attack,
            epsilon=budget if isinstance(budget, Quantity) else None,
            size=budget if isinstance(budget, Size) else None,
            conditions=spec.conditions,
            norm=spec.norm,
            goal="targeted" if target else spec.goal,
            target=target,
            finding=_finding(spec, model),
            queries=spec.queries,
            oracle=spec.oracle,
            descending=spec.ladder == "descending",
            entry=spec.id,
            bounds=spec.bounds(index),
        )


def _finding(spec: GateSpec, model: ModelSpec) -> str | None:
    """The finding that a gate is about, where an image may have several and its goal is about one of them."""
    about_one = model.task == "multilabel" and spec.goal in ABOUT_DISEASE
    return (spec.finding or model.positive) if about_one else None
