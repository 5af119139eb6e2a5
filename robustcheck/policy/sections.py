"""What the checks share: looking into a document whose types nobody has checked yet."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from robustcheck.policy.attack_specs import ATTACKS, AttackSpec
from robustcheck.policy.fields import as_list, is_whole
from robustcheck.policy.tree import KeyPath
from robustcheck.words import did_you_mean, listed, shown

NO_ATTACK = frozenset({"none", "clean"})  # what people call it to leave the attack out
Faults = Iterator[tuple[KeyPath, str]]


def section(data: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping at a key; an empty one if something else stands there."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def placed_entries(value: Any, at: KeyPath) -> list[tuple[Any, KeyPath]]:
    """The entries of the list at a path, each with its own path; a single value in place of a list keeps the path."""
    return [(entry, (*at, number) if isinstance(value, list) else at) for number, entry in enumerate(as_list(value))]


def stands(key: str, data: dict[str, Any], spec: type[BaseModel]) -> bool:
    """Whether a key is there, perhaps misspelt: then the spelling is the mistake, and not that the key is missing."""
    return key in data or bool(get_close_matches(key, [word.lower() for word in data if word not in spec.model_fields]))


def is_name(value: Any) -> bool:
    """Whether a value can be a label: text, or a whole number that is a name."""
    return is_whole(value) or (isinstance(value, str) and value != "")


def one_of_labels(name: Any, at: KeyPath, model: dict[str, Any]) -> Faults:
    """Whether a name is one of the candidate's labels."""
    labels = model.get("labels")
    names = [str(label) for label in labels if is_name(label)] if isinstance(labels, list) else []
    if names and is_name(name) and str(name) not in names:
        hint = did_you_mean(str(name), names)
        yield at, f"found {shown(name)}; it has to be one of the labels: {listed(map(shown, names))}{hint}"


def attack_name(gate: dict[str, Any]) -> str | None:
    """The attack that a gate names, if it exists."""
    attack = gate.get("attack")
    name = attack.get("name") if isinstance(attack, dict) else attack
    return name if isinstance(name, str) and name in ATTACKS else None


def attack_spec(gate: dict[str, Any]) -> AttackSpec | None:
    """A gate's attack, if nothing is wrong with its parameters."""
    name, attack = attack_name(gate), gate.get("attack")
    if name is None:
        return None
    try:
        return ATTACKS[name].model_validate(attack if isinstance(attack, dict) else {"name": name})
    except ValidationError:
        return None  # reported with the schema's mistakes
