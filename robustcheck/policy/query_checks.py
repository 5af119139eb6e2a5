"""Mistakes of gates whose adversary may only ask that no single field of a policy shows."""

from __future__ import annotations

from typing import Any

from robustcheck.policy.attack_specs import ASK_AN_ORACLE
from robustcheck.policy.fields import is_whole
from robustcheck.policy.query_specs import LabelOnlySpec, PartialInformationSpec
from robustcheck.policy.schema import GateSpec
from robustcheck.policy.sections import Faults, attack_name, attack_spec, stands
from robustcheck.policy.tree import KeyPath


def find(gate: dict[str, Any], at: KeyPath, model: dict[str, Any]) -> Faults:
    """Attacks that ask, and only they, have a limit; and an answer has no more labels than the head."""
    name = attack_name(gate)
    if name is None:
        return
    if name not in ASK_AN_ORACLE:
        yield from _asks_nothing(name, gate, at)
        return
    if not stands("queries", gate, GateSpec):
        yield (*at, "attack"), f"{name} needs queries beside it: how often a sample may be asked about, such as 2000"
    spec, queries = attack_spec(gate), gate.get("queries")
    if spec is None:
        return
    if is_whole(queries) and 1 <= queries < spec.least_queries:
        yield (
            (*at, "queries"),
            f"found {queries}; {name} asks {spec.least_queries} times about a sample for its first step: give at "
            "least as many",
        )
    if isinstance(spec, PartialInformationSpec):
        yield from _best_few(spec, at, model)
    if isinstance(spec, LabelOnlySpec) and spec.radius is not None and spec.copies == 1:
        yield (*at, "attack", "radius"), "is about the noise between copies, and one copy has none; set copies above 1"


def _asks_nothing(name: str, gate: dict[str, Any], at: KeyPath) -> Faults:
    why = "asks the candidate nothing" if name in ("transfer", "patch") else "follows gradients"
    if "queries" in gate and name == "ensemble":
        yield (
            (*at, "queries"),
            "limits what a whole attack may ask, but only the ensemble's member square asks: write "
            "attack: {name: ensemble, queries: …}",
        )
    elif "queries" in gate:
        yield (*at, "queries"), f"limits what may be asked of an oracle, but {name} {why}; leave it out"
    if "oracle" in gate:
        yield (*at, "oracle"), f"is what an oracle is asked about, but {name} {why}; leave it out"


def _best_few(spec: PartialInformationSpec, at: KeyPath, model: dict[str, Any]) -> Faults:
    labels = model.get("labels")
    if isinstance(labels, list) and len(labels) > 1 and spec.k > len(labels):
        yield (
            (*at, "attack", "k"),
            f"found {spec.k}; the candidate has {len(labels)} labels; allowed: 1 to {len(labels)}",
        )
    if model.get("task") == "multilabel":
        yield (
            (*at, "attack"),
            "partial_information sees the best few of labels that compete, but those of a multilabel task do not; "
            "use label_only or hopskipjump, which ask for findings, or nes or square, which ask for scores",
        )
