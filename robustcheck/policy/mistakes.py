"""Mistakes as sentences: what pydantic found, said to the person who typed it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from robustcheck.errors import Problem
from robustcheck.policy.schema import ATTACKS, PolicyFile
from robustcheck.policy.yamltree import KeyPath, Tree
from robustcheck.words import did_you_mean

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "dict": "a mapping (key: value)",
    "model": "a mapping (key: value)",
    "list": "a list",
    "tuple": "a list",
}
_LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_MOST_SHOWN = 60


def problems(error: ValidationError, tree: Tree) -> list[Problem]:
    """One problem for each mistake that pydantic found."""
    seen: dict[tuple[KeyPath, str], Problem] = {}
    for details in error.errors(include_url=False):
        path = _path_in(tree.data, details["loc"])
        seen.setdefault((path, details["type"]), tree.problem(path, _sentence(details, path)))
    return list(seen.values())


def shown(value: Any) -> str:
    """A value as a message quotes it: short, and as it was typed."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = (
        repr(value)
        if isinstance(value, str)
        else "a mapping"
        if isinstance(value, dict)
        else "a list"
        if isinstance(value, list)
        else str(value)
    )
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"


def _path_in(data: Any, location: tuple[int | str, ...]) -> KeyPath:
    """Pydantic's location without the union tags that it adds and the file does not have."""
    path: list[int | str] = []
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(data, dict) and (part in data or (last and part not in ATTACKS)):
            data = data.get(part)
            path.append(part)
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part] if part < len(data) else None
            path.append(part)
    return tuple(path)


def _sentence(details: ErrorDetails, path: KeyPath) -> str:  # noqa: C901 (one branch a kind of mistake)
    kind, found, context = details["type"], details.get("input"), details.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _keys_beside(path)
        return f"unknown key; allowed here: {', '.join(allowed)}{did_you_mean(str(path[-1]), allowed)}"
    if kind == "missing":
        return f"is missing; it is needed: {_description(path)}" if path else "is missing"
    if kind == "union_tag_invalid":
        name = found.get("name") if isinstance(found, dict) else found
        return f"unknown attack {shown(name)}; this version has {', '.join(ATTACKS)}{did_you_mean(str(name), ATTACKS)}"
    if kind == "literal_error":
        expected = str(context["expected"])
        return f"found {shown(found)}; allowed: {expected}{did_you_mean(str(found), _words(expected))}"
    if kind == "value_error":
        return str(context["error"])
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"found {shown(found)}; it has to be {words} {context[key]:g}"
    if kind == "string_pattern_mismatch":
        return f"found {shown(found)}; allowed: {_description(path)}"
    if kind in ("too_short", "string_too_short"):
        length = len(found) if isinstance(found, str) else context.get("actual_length")
        return f"found {length}; at least {context['min_length']} needed"
    if kind in ("too_long", "string_too_long"):
        return f"is too long; at most {context['max_length']} allowed"
    if kind == "finite_number":
        return f"found {shown(found)}; it has to be a finite number"
    type_name = _TYPES.get(kind.rsplit("_", 1)[0])
    if type_name and kind.endswith(("_type", "_parsing", "_from_float")):
        return f"found {shown(found)}; expected {type_name}"
    return f"found {shown(found)}; {details['msg'].lower()}"


def _words(expected: str) -> list[str]:
    return [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _owners(path: KeyPath) -> list[type[BaseModel]]:
    """The sections of the schema that the last key of a path may belong to."""
    models: list[type[BaseModel]] = [PolicyFile]
    for part in path[:-1]:
        if isinstance(part, str):
            models = [
                inner
                for model in models
                if part in model.model_fields
                for inner in _models(model.model_fields[part].annotation)
            ]
    return models


def _keys_beside(path: KeyPath) -> list[str]:
    return list(dict.fromkeys(key for model in _owners(path) for key in model.model_fields))


def _description(path: KeyPath) -> str:
    for model in _owners(path):
        if path[-1] in model.model_fields:
            return model.model_fields[str(path[-1])].description or ""
    return ""
