"""Mistakes as sentences: what pydantic found, said to the person who typed it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from robustcheck.policy.attack_specs import ATTACKS
from robustcheck.policy.fields import SPLITS
from robustcheck.policy.schema import PolicyFile
from robustcheck.policy.sections import NO_ATTACK
from robustcheck.policy.tree import KeyPath, Mistake
from robustcheck.words import did_you_mean, shown

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
_OF_A_NUMBER = (
    "for a number that is not a probability, have the network subtract the threshold (docs/policy.md, 'Scores that are "
    "not the labels')"
)
_ALMOST = 0.85  # of a word: how like a key is to one that was meant, though it is a key elsewhere
_OTHER_TASKS = {
    **dict.fromkeys(("regression", "survival", "ordinal"), f"; {_OF_A_NUMBER}"),
    **{task: f"; {task} is not supported" for task in ("segmentation", "detection")},
}


def find(error: ValidationError, data: dict[str, Any]) -> list[Mistake]:
    """One mistake for each key that pydantic found fault with; `data` is what it was given."""
    # Reversed, so that of several faults with one key the first is kept.
    details = {_path(data, found): found for found in reversed(error.errors(include_url=False))}
    excused = _excused(details, data)
    return [
        Mistake(path=path, message=_sentence(found, path, data))
        for path, found in reversed(details.items())
        if not (found["type"] == "missing" and (path in excused or path[-1:] in excused)) and not _follows(found)
    ]


def _excused(details: dict[KeyPath, ErrorDetails], data: dict[str, Any]) -> set[KeyPath]:
    """Keys that are missing only because they are misspelt (their paths) or stand elsewhere (their names)."""
    unknown = [path for path, found in details.items() if found["type"] == "extra_forbidden"]
    meant = {
        (*path[:-1], key)
        for path in unknown
        for key in get_close_matches(str(path[-1]).lower(), _keys_beside(path, data), n=1)
    }
    return meant | {path[-1:] for path in unknown}


def _path(data: Any, found: ErrorDetails) -> KeyPath:
    path = _path_in(data, found["loc"])
    if found["type"] == "union_tag_invalid":  # pydantic says where the attack stands, people look for its name
        attack = data["gates"][path[1]]["attack"]
        return (*path, "name") if isinstance(attack, dict) else path
    return path


def _path_in(data: Any, location: tuple[int | str, ...]) -> KeyPath:
    """Pydantic's location without what the file does not have: the attack's tag, the index of a list of one."""
    if location[0] == "gates" and location[2:3] == ("attack",):
        location = location[:3] + location[4:]
    path: list[int | str] = []
    for part in location:
        if isinstance(part, int) and not isinstance(data, list):
            continue
        known = part in data if isinstance(data, dict) else isinstance(part, int) and part < len(data)
        data = data[part] if known else None
        path.append(part)
    return tuple(path)


def _follows(found: ErrorDetails) -> bool:
    """Whether a list is only too short because entries of it, reported themselves, are wrong."""
    given = found.get("input")
    return found["type"] == "too_short" and isinstance(given, list) and len(given) >= found["ctx"]["min_length"]


def _sentence(found: ErrorDetails, path: KeyPath, data: dict[str, Any]) -> str:
    kind, given, context = found["type"], found.get("input"), found.get("ctx", {})
    description = _description(path, data)
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        return _unknown_key(path, data)
    if kind == "missing":
        return f"is missing; it is needed: {description}" if description else "is missing"
    if kind == "union_tag_invalid":
        return _unknown_attack(given)
    if kind == "literal_error":
        return _other_word(given, str(context["expected"]), path)
    if kind.endswith(("too_short", "too_long")):
        return _wrong_length(given, context, description)
    wanted = _TYPES.get(kind.removesuffix("_type"))
    if wanted:
        return _wrong_type(given, wanted, description)
    allowed = f"allowed: {description}" if description else found["msg"].lower()
    limit = _limit(kind, context, _range(path, data)) or allowed
    hint = f"; {_OF_A_NUMBER}" if path[:2] == ("model", "operating_point") and kind in _LIMITS else ""
    return f"found {shown(given)}; {limit}{hint}"


def _limit(kind: str, context: Mapping[str, Any], allowed: Mapping[str, Any]) -> str:
    """The whole range that is allowed, even if only one end of it was passed."""
    if kind == "finite_number":
        return "it has to be a finite number"
    if kind not in _LIMITS:
        return ""
    ends = {**allowed, **{key: context[key] for _, key in _LIMITS.values() if key in context}}
    words = [f"{words} {_plain(ends[key])}" for words, key in _LIMITS.values() if key in ends]
    return f"it has to be {' and '.join(words)}"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _range(path: KeyPath, data: dict[str, Any]) -> dict[str, Any]:
    """The limits that the schema sets to the value at a path."""
    metadata = field.metadata if (field := _field(path, data)) else []
    return {key: getattr(item, key) for item in metadata for _, key in _LIMITS.values() if hasattr(item, key)}


def _other_word(given: Any, expected: str, path: KeyPath) -> str:
    if path == ("robustcheck",):
        return f"found {shown(given)}; this version reads policies of format 1"
    meant = [split for split, words in SPLITS.items() if path == ("data", "split") and str(given).lower() in words]
    if meant:
        return f"found {shown(given)}; allowed: {expected}; write {meant[0]}, even if folders or rows say {given}"
    hint = next((hint for task, hint in _OTHER_TASKS.items() if path[-1:] == ("task",) and task in str(given)), "")
    return f"found {shown(given)}; allowed: {expected}{hint or did_you_mean(str(given), _words(expected))}"


def _unknown_key(path: KeyPath, data: dict[str, Any]) -> str:
    key, allowed = str(path[-1]), _keys_beside(path, data)
    homes = " or ".join(_homes(key))
    # A slip of one letter is likelier than a key of another place, which may still be what was meant.
    resembled = did_you_mean(key, allowed, likeness=_ALMOST) if homes else did_you_mean(key, allowed)
    belongs = f" ({key} belongs to {homes})" if resembled else f"; it belongs to {homes}"
    return f"unknown key; allowed here: {', '.join(allowed)}{resembled}{belongs if homes else ''}"


def _unknown_attack(given: Any) -> str:
    name = given.get("name") if isinstance(given, dict) else given
    if not isinstance(name, str):
        return f"found {shown(name)}; give the name of an attack: {', '.join(ATTACKS)}"
    hint = did_you_mean(name, ATTACKS)
    if name.lower() in NO_ATTACK:
        hint = "; for a gate without an attack, leave attack and epsilon out"
    return f"unknown attack {shown(name)}; this version has {', '.join(ATTACKS)}{hint}"


def _wrong_length(given: Any, context: Mapping[str, Any], description: str) -> str:
    least, most = context.get("min_length"), context.get("max_length")
    limit = f"at least {least} needed" if least is not None else f"at most {most} allowed"
    if isinstance(given, str):
        found = f"found {len(given)} characters" if given else "is empty"
    else:
        found = f"found a list of {len(given)}" if given else "is empty"
    return f"{found}; {limit}" + (f": {description}" if description else "")


def _wrong_type(given: Any, wanted: str, description: str) -> str:
    hint = f": {description}" if description else ""
    if wanted == "text" and isinstance(given, (bool, int, float)):
        hint = "; put it in quotes if it is a name"
    elif wanted in ("a number", "a whole number") and isinstance(given, str) and _is_number(given):
        hint = f"; write {given.strip()} without quotes"
    return f"found {shown(given)}; expected {wanted}{hint}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return len(text) < 20


def _words(expected: str) -> list[str]:
    return [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]


# --- what the schema says at a path -----------------------------------------------------------------------------


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _homes(key: str) -> Iterator[str]:
    """The sections of the schema that have a key, as a message names them."""
    sections: dict[str, type[BaseModel]] = {"the top level": PolicyFile, **dict(_named_sections(PolicyFile))}
    yield from (name for name, model in sections.items() if key in model.model_fields)
    attacks = [f"the attack {name}" for name, spec in ATTACKS.items() if key in spec.model_fields]
    yield from ["a gate's attack"] if len(attacks) == len(ATTACKS) else attacks


def _named_sections(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """`model`, `model.preprocess`, `a gate` …, but not the attacks, of which there are many at one place."""
    for field, info in model.model_fields.items():
        for inner in _models(info.annotation):
            if inner not in ATTACKS.values():
                name = "a gate" if field == "gates" else above + field
                yield name, inner
                yield from _named_sections(inner, f"{name}.")


def _owners(path: KeyPath, data: Any) -> list[type[BaseModel]]:
    """The sections of the schema that the last key of a path may belong to; of an attack, the one that is named."""
    models: list[type[BaseModel]] = [PolicyFile]
    for part in path[:-1]:
        data = data[part]
        if isinstance(part, str):
            models = [
                inner
                for model in models
                if part in model.model_fields
                for inner in _models(model.model_fields[part].annotation)
            ]
        if part == "attack" and isinstance(data, dict) and isinstance(data.get("name"), str):
            models = [ATTACKS[data["name"]]] if data["name"] in ATTACKS else models
    return models


def _keys_beside(path: KeyPath, data: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(key for model in _owners(path, data) for key in model.model_fields))


def _description(path: KeyPath, data: dict[str, Any]) -> str:
    while path and isinstance(path[-1], int):
        path = path[:-1]
    field = _field(path, data)
    return (field.description or "") if field else ""


def _field(path: KeyPath, data: dict[str, Any]) -> FieldInfo | None:
    """What the schema says about the last key of a path; None if that is the place of an entry, or not known."""
    key = str(path[-1]) if path else ""
    return next((model.model_fields[key] for model in _owners(path, data) if key in model.model_fields), None)
