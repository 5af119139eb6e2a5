"""YAML, read safely, with the line of every key.

The YAML 1.2 core schema is read: `no` is text and not false, `1:30` is text and not ninety. No tag constructs anything.
Size, nesting and the growth of aliases are bounded before any of it is expanded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from robustcheck.errors import PolicyError, Problem

MAX_BYTES = 256 * 1024
MAX_VALUES = 10_000
MAX_DEPTH = 32
_MAX_NUMBER_DIGITS = 40

KeyPath = tuple[str | int, ...]


class _CoreLoader(yaml.SafeLoader):
    """Resolves plain scalars by the core schema of YAML 1.2 instead of the looser one of YAML 1.1."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own attribute)


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", "~nN\0"),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first) + ([""] if _tag == "null" else [])
    )


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A document as plain dicts, lists and scalars, and where each key stands."""

    file: str
    data: Any
    lines: dict[KeyPath, int]

    def line(self, path: KeyPath) -> int | None:
        """The line of a key, or of the nearest key above it that the document has."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def problem(self, path: KeyPath, message: str) -> Problem:
        """A mistake at a key."""
        return Problem(file=self.file, line=self.line(path), key=show(path), message=message)


def show(path: KeyPath) -> str:
    """A key path as people write it: `gates[0].attack.steps`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read(path: Path, name: str) -> tuple[bytes, Tree]:
    """Read a YAML file; `name` is what messages call it.

    Returns:
        The bytes that were read (digest these, not the file again) and the document.

    Raises:
        PolicyError: it cannot be read, or is not one plain YAML document.
    """
    content = _read_bytes(path, name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _failure(name, line, "is not UTF-8 text; save it as UTF-8") from None
    return content, parse(text, name)


def parse(text: str, name: str) -> Tree:
    """Parse one YAML document. Raises PolicyError as `read` does."""
    try:
        root = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _failure(name, mark.line + 1 if mark else None, _syntax_message(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _failure(name, line, f"character U+{error.character:04X} is not allowed in YAML") from None
    except RecursionError:
        raise _failure(name, None, f"is nested deeper than {MAX_DEPTH} levels") from None
    if root is None:
        raise _failure(name, None, "is empty; `robustcheck: 1`, model, data and gates are needed")
    builder = _Builder(name)
    data = builder.build(root, ())
    if builder.problems:
        raise PolicyError(builder.problems)
    return Tree(file=name, data=data, lines=builder.lines)


class _Builder:
    """Turns YAML nodes into plain data, collecting lines and the mistakes that plain data could not show."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._values = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        self._values += 1
        if self._values > MAX_VALUES:
            raise _failure(self.file, line, f"has more than {MAX_VALUES} values once its aliases are expanded")
        if len(path) > MAX_DEPTH:
            raise _failure(self.file, line, f"is nested deeper than {MAX_DEPTH} levels, or an alias contains itself")
        self.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._add(line, path, "a key has to be plain text")
                continue
            key = key_node.value
            if key == "<<":
                self._add(line, (*path, key), "merge keys (<<) are not read; write the keys out")
                continue
            if key in first:
                self._add(line, (*path, key), f"the key stands here a second time; the first is on line {first[key]}")
                continue
            first[key] = line
            self.lines[(*path, key)] = line
            result[key] = self.build(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        value: str = node.value
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == "null":
            return None
        if kind == "bool":
            return value.lower() == "true"
        if kind == "int" and len(value) <= _MAX_NUMBER_DIGITS:
            return int(value)
        if kind == "float":
            return float(value)
        if kind not in ("str", "int"):
            self._add(node.start_mark.line + 1, path, f"the tag {node.tag!r} is not allowed; a policy is plain data")
        return value

    def _add(self, line: int, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(file=self.file, line=line, key=show(path), message=message))


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise _failure(name, None, "is a folder; name the policy file in it")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _failure(name, None, "there is no such file" + _similar(path)) from None
    except OSError as error:
        raise _failure(name, None, f"cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise _failure(name, None, f"is larger than {MAX_BYTES // 1024} KiB, the most a policy may be")
    return content


def _similar(path: Path) -> str:
    from difflib import get_close_matches

    try:
        names = sorted(file.name for file in path.parent.iterdir() if file.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    close = get_close_matches(path.name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "it cannot be parsed"
    if "'\\t'" in problem:
        return "a tab cannot indent YAML; use spaces"
    if "undefined alias" in problem:
        return f"{problem}; an alias (*name) needs an anchor (&name) above it"
    if "expected a single document" in (error.context or ""):
        return "holds more than one YAML document (---); a policy is one"
    return f"is not valid YAML: {problem}" + (f" {error.context}" if error.context else "")


def _failure(name: str, line: int | None, message: str) -> PolicyError:
    return PolicyError([Problem(file=name, line=line, key="", message=message)])
