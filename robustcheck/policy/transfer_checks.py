"""Mistakes about the models that a transfer attack follows that no single field of a policy shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustcheck.policy import model_checks
from robustcheck.policy.model_spec import steps_beside
from robustcheck.policy.sections import Faults, attack_name, is_name, placed_entries, section, stands
from robustcheck.policy.transfer_spec import SurrogateSpec, TrainSpec, TransferSpec
from robustcheck.policy.tree import KeyPath
from robustcheck.words import listed, shown


def find(gate: dict[str, Any], at: KeyPath, data: dict[str, Any], folder: Path) -> Faults:
    """There is a surrogate; each exists, has the candidate's labels, and learns from images that are not judged."""
    model, samples = section(data, "model"), section(data, "data")
    name = attack_name(gate)
    if name not in ("transfer", "patch"):
        return
    attack = gate["attack"] if isinstance(gate["attack"], dict) else {}
    at = (*at, "attack")
    if name == "transfer" and not any(stands(key, attack, TransferSpec) for key in ("surrogate", "train")):
        yield (
            at,
            "transfer follows another model: write {name: transfer, surrogate: other.onnx}, or train: {architecture: "
            "'module:callable'} to have one trained",
        )
    for surrogate, place in placed_entries(attack.get("surrogate"), (*at, "surrogate")):
        keys = {"path": surrogate} if isinstance(surrogate, str) else surrogate
        if isinstance(keys, dict):
            yield from model_checks.artefact(keys, place, folder, SurrogateSpec, built="architecture" in model)
            yield from _preprocess(keys, place, model)
            yield from model_checks.scores(keys, place, model)
            yield from _labels(keys, place, model)
            yield from _task(keys, place, model)
    for train, place in placed_entries(attack.get("train"), (*at, "train")):
        if isinstance(train, dict):
            yield from model_checks.reference(train.get("architecture"), (*place, "architecture"))
            yield from _preprocess(train, place, model)
            yield from _task(train, place, model)
            yield from _stolen(train, place)
            if samples.get("split") == "train":
                yield (
                    place,
                    "the surrogate would be followed on the images that it is trained on: data.split is train; judge "
                    "another split, such as data: {split: test}, or name a trained model in surrogate",
                )


def _labels(surrogate: dict[str, Any], at: KeyPath, model: dict[str, Any]) -> Faults:
    own, wanted = surrogate.get("labels"), model.get("labels")
    if not isinstance(own, list) or not isinstance(wanted, list) or not all(map(is_name, own + wanted)):
        return
    if list(map(str, own)) != list(map(str, wanted)):
        yield (
            (*at, "labels"),
            f"found {listed(map(shown, own))}; a surrogate has the candidate's labels in the candidate's order, "
            f"{listed(map(shown, wanted))}: another model's answers cannot be carried over",
        )


def _preprocess(surrogate: dict[str, Any], at: KeyPath, model: dict[str, Any]) -> Faults:
    """Its steps fit one another and the candidate's, but for what does not fit in the candidate's own."""
    written, candidate = section(surrogate, "preprocess"), section(model, "preprocess")
    if written:
        known = set(model_checks.preprocess(model, at))
        both = {"preprocess": steps_beside(written, candidate)}
        yield from (found for found in model_checks.preprocess(both, at) if found not in known)


def _task(surrogate: dict[str, Any], at: KeyPath, model: dict[str, Any]) -> Faults:
    own, wanted, labels = surrogate.get("task"), model.get("task"), model.get("labels")
    several = [task == "multilabel" for task in (own, wanted)]
    if own is not None and wanted is not None and several[0] != several[1]:
        yield (*at, "task"), f"found {shown(own)}, but the candidate's is {shown(wanted)}: answers cannot be compared"
    elif own == "binary" and isinstance(labels, list) and len(labels) > 2:
        yield (*at, "task"), f"found 'binary', which has 2 labels, but the candidate has {len(labels)}"


def _stolen(train: dict[str, Any], at: KeyPath) -> Faults:
    """A surrogate that learns from the candidate's answers says how many it may have."""
    stolen = train.get("labels") == "candidate"
    if stolen and not stands("queries", train, TrainSpec):
        yield (
            (*at, "labels"),
            "candidate needs queries beside it: how many images of the train split it may be asked about, such as 1000",
        )
    if "queries" in train and not stolen:
        yield (*at, "queries"), "is for labels: candidate; a surrogate that learns the data's labels asks nothing"
