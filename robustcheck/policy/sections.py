"""What the checks share: looking into a document whose types nobody has checked yet."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from robustcheck.policy.tree import KeyPath

NO_ATTACK = frozenset({"none", "clean"})  # what people call it to leave the attack out
Found = Iterator[tuple[KeyPath, str]]


def section(data: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping at a key; an empty one if something else stands there."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[Any]:
    """A list, or the one value that stands for a list of one."""
    return value if isinstance(value, list) else [value]


def stands(key: str, data: dict[str, Any], spec: type[BaseModel]) -> bool:
    """Whether a key is there, perhaps misspelt: then the spelling is the mistake, and not that the key is missing."""
    return key in data or bool(get_close_matches(key, [word.lower() for word in data if word not in spec.model_fields]))


def is_number(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_name(value: Any) -> bool:
    """Whether a value can be a label: text, or a whole number that is a name."""
    return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""
