"""YAML text to nodes: which scalars are more than text, what is too much, and what a syntax error means.

The core schema of YAML 1.2 is read, and less of it where that protects what people type as names: `no` and `1:30` are
text, and so are `007`, `+5` and `0x1F`. Nesting and the number of values are bounded while the text is read.
"""

from __future__ import annotations

import re

import yaml

MAX_VALUES = 10_000
MAX_DEPTH = 32
_MOST_NODES = 2 * MAX_VALUES  # keys are nodes too
_CORE = "tag:yaml.org,2002:"

SCALARS: dict[str, re.Pattern[str]] = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"-?(?:0|[1-9][0-9]{0,39})\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}
_FIRST = {"null": ["~", "n", "N", ""], "bool": list("tTfF"), "int": list("-0123456789"), "float": list("-+.0123456789")}


class LimitError(yaml.MarkedYAMLError):
    """A policy has more values, or nests them deeper, than it may."""


class CoreLoader(yaml.SafeLoader):
    """Composes nodes; resolves plain scalars by `SCALARS` instead of the looser rules of YAML 1.1."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own attribute)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node and what is in it, within the limits."""
        self._nodes += 1
        self._depth += 1
        if self._nodes > _MOST_NODES:
            self._refuse(f"has more than {MAX_VALUES} values, the most a policy may have")
        if self._depth > MAX_DEPTH + 1:  # the document itself is not nested
            self._refuse(f"is nested deeper than {MAX_DEPTH} levels, the most a policy may have")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, problem: str) -> None:
        raise LimitError(problem=problem, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]


for _kind, _pattern in SCALARS.items():
    CoreLoader.add_implicit_resolver(_CORE + _kind, _pattern, _FIRST[_kind])


def kind_of(node: yaml.Node) -> str | None:
    """`map`, `seq`, `str` or a kind of `SCALARS`; None if its tag asks for something that a policy does not hold."""
    kind = node.tag.removeprefix(_CORE)
    if isinstance(node, yaml.MappingNode):
        return kind if kind == "map" else None
    if isinstance(node, yaml.SequenceNode):
        return kind if kind == "seq" else None
    fits = kind == "str" or (kind in SCALARS and SCALARS[kind].match(node.value))
    return kind if fits else None


def syntax_line(error: yaml.MarkedYAMLError) -> int | None:
    """The line of a syntax error: where it begins, if PyYAML noticed it only further down."""
    mark = error.problem_mark
    if mark is None or "quoted scalar" in (error.context or "") or "simple key" in (error.context or ""):
        mark = error.context_mark or mark
    return mark.line + 1 if mark else None


def syntax_message(error: yaml.MarkedYAMLError) -> str:
    """What a syntax error of PyYAML means to the person who typed it."""
    problem, context = error.problem or "it cannot be parsed", error.context or ""
    began = f" on line {error.context_mark.line + 1}" if error.context_mark else ""
    if isinstance(error, LimitError):
        return problem
    if "expected a single document" in context:
        return "a second document (---) begins here; a policy is a single one"
    if "undefined alias" in problem:
        return f"{problem}; an alias (*name) needs an anchor (&name) above it"
    if "quoted scalar" in context and "end of stream" in problem:
        return "a quotation mark is not closed"
    if "flow" in context and "expected ',' or" in problem:
        bracket = "[" if "sequence" in context else "{"
        return f"the {bracket}{began} is not closed, or a comma is missing in it"
    for sign, message in _SYNTAX.items():
        if sign in problem:
            return message
    return f"is not valid YAML: {problem}" + (f" {context}{began}" if context else "")


_SYNTAX = {
    "'\\t'": "a tab cannot indent YAML; use spaces",
    "chomping or indentation indicators": "text that begins with '>' or '|' needs quotes, such as '>= 0.7'",
    "cannot start any token": "text that begins with %, @ or ` needs quotes",
    "mapping values are not allowed": (
        "a ':' where no key can stand; text that holds ': ' needs quotes, and keys of a section start in one column"
    ),
    "expected <block end>": "the indentation does not fit the lines above it; keys of a section start in one column",
    "could not find expected ':'": "is not a 'key: value' pair; is its ':' missing?",
}
