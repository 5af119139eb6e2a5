"""What the graph of a `torch.export` program may say.

torch turns the graph into Python source: names become attributes and arguments, symbolic sizes are evaluated, operators
are looked up by dotted path. So nothing in it may be more than it has to be: names are names, sizes are arithmetic,
operators are registered operators. What only explains (stack traces; guards, which torch would compile) is left out.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import torch

from robustcheck.models.pytorch.torch_operators import is_refused

_NAME = re.compile(r"[A-Za-z0-9_.+-]*")  # no quote, bracket, blank or '=': nothing can be called with these
_QUOTES = re.compile(r"['\"\\\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ARITHMETIC = frozenset(
    "add sub mul floordiv truediv mod pow neg pos eq ne lt le gt ge and_ or_ not_ getitem".split()  # noqa: SIM905
)
_ROUNDING = frozenset({"ceil", "floor", "trunc"})  # of `math`, what torch traces; others take for ever on large numbers
_WITH_GRAPHS = frozenset({"cond", "wrap_with_set_grad_enabled", "wrap_with_autocast"})
_NAMESPACES = ("aten", "torchvision", "quantized_decomposed")
# How sympy and torch write a size (`srepr`).
_SIZE_FUNCTIONS = frozenset(
    (  # noqa: SIM905
        "Symbol Integer Rational Add Mul Pow Mod Max Min Abs floor ceiling And Or Not Equality Unequality GreaterThan "
        "LessThan StrictGreaterThan StrictLessThan FloorDiv ModularIndexing Where PythonMod CleanDiv CeilDiv CeilToInt "
        "FloorToInt TruncToInt RoundToInt TruncToFloat ToFloat IntTrueDiv FloatTrueDiv PowByNatural Identity"
    ).split()
)
_SIZE_CONSTANTS = frozenset({"true", "false", "oo", "int_oo"})
_GUARD_FUNCTIONS = frozenset({"int", "float", "bool", "abs", "min", "max", "round"})
_GUARD_NODES = (
    ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Constant, ast.Subscript, ast.Tuple, ast.List,
    ast.Load, ast.operator, ast.boolop, ast.unaryop, ast.cmpop,
)  # fmt: skip
_POWERS = frozenset({"Pow", "PowByNatural"})
_MAX_SIZE_LENGTH, _MAX_EXPONENT = 10_000, 8
ON_CPU = {"type": "cpu", "index": None}
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


class UnsafeGraphError(ValueError):
    """Something in a graph that no network needs; the message completes "… is not loaded: "."""


def cleaned(text: bytes) -> bytes:
    """A program's JSON with nothing in it but the network.

    Raises:
        UnsafeGraphError: it says more than a network needs.
        ValueError: it is not a JSON object.
        RecursionError: it is nested deeper than any network.
    """
    document = json.loads(text.decode("utf-8"))
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004
    return json.dumps(_object(document)).encode()


def _object(value: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value.get("target"), str) and "inputs" in value:
        _check_operator(value["target"])
        if value["target"] == "_operator.pow" and not _is_small(value["inputs"][1]["arg"]):
            raise UnsafeGraphError(f"its graph has a power of more than {_MAX_EXPONENT}, which could take for ever")
    return {_name(key): _cleaned(key, held) for key, held in value.items()}


def _is_small(exponent: dict[str, Any]) -> bool:
    number = exponent.get("as_sym_int", exponent).get("as_int")
    return "as_float" in exponent or (isinstance(number, int) and number <= _MAX_EXPONENT)


def _cleaned(key: str, value: Any) -> Any:
    if key == "metadata":
        return {}
    if key == "guards_code":
        for guard in value:
            _check_guard(str(guard))
        return []
    if key in ("as_string", "as_strings") and isinstance(value, str):
        return _QUOTES.sub("", value)
    if isinstance(value, dict):
        return ON_CPU if _is_device(key, value) else _object(value)
    if isinstance(value, list):
        return [_cleaned(key, held) for held in value]
    if isinstance(value, str) and key in ("in_spec", "out_spec"):
        version, spec = json.loads(value)
        return json.dumps([version, _containers(spec)])
    if isinstance(value, str):
        _check_text(key, value)
    return value


def _is_device(key: str, value: Any) -> bool:
    """Whether this is where a tensor lies; an archive is read on machines that have no such device."""
    return key in ("device", "as_device") and isinstance(value, dict) and value.keys() <= {"type", "index"}


def _check_text(key: str, text: str) -> None:
    if key == "expr_str":
        _check_size(text)
    elif key == "as_operator":
        _check_operator(text)
    else:
        _name(text)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise UnsafeGraphError(f"it holds the name {text[:80]!r}, which could run code")
    return text


def _check_operator(target: str) -> None:
    parts = target.split(".")
    known = False
    match parts:
        case ["torch", "ops", "aten", name, _] if is_refused(name):
            raise UnsafeGraphError(
                f"its graph calls {target[:80]!r}, which is not among the operators that are run: it may reach files "
                "or any memory"
            )
        case ["torch", "ops", "higher_order", name]:
            known = name in _WITH_GRAPHS
        case ["torch", "ops", namespace, name, overload] if namespace in _NAMESPACES:
            if namespace == "torchvision":
                import torchvision  # noqa: F401 (which registers them)
            overloads = getattr(getattr(torch.ops, namespace), name, None)
            known = isinstance(getattr(overloads, overload, None), torch._ops.OpOverload)
        case ["_operator", name]:
            known = name in _ARITHMETIC
        case ["math", name]:
            known = name in _ROUNDING
        case ["torch", name]:
            known = name.startswith("sym_")
    if not known:
        raise UnsafeGraphError(f"its graph calls {target[:80]!r}, which is not an operator of torch and could run code")


def _check_size(text: str) -> None:
    """Symbolic sizes are evaluated as Python by sympy: no strings but symbols' names, no functions but arithmetic."""
    tree = _parsed(text)
    if tree is None or not _is_size(tree.body):
        raise UnsafeGraphError(f"it holds the expression {text[:80]!r}, which could run code")


def _check_guard(text: str) -> None:
    """Guards are compiled wherever the program is used. They are left out, but one that acts is refused."""
    tree = _parsed(text)
    if tree is None or not all(_fits_a_guard(node) for node in ast.walk(tree)):
        raise UnsafeGraphError(f"it holds the guard {text[:80]!r}, which could run code")


def _parsed(text: str) -> ast.Expression | None:
    try:
        return ast.parse(text, mode="eval") if len(text) <= _MAX_SIZE_LENGTH else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _fits_a_guard(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return not name.startswith("_")
        case ast.Constant(value=str(text)):
            return _NAME.fullmatch(text) is not None
        case ast.Call(func=ast.Name(id=name)):
            return name in _SIZE_FUNCTIONS | _GUARD_FUNCTIONS
        case ast.Call(func=function):
            return isinstance(function, ast.Attribute)
    return isinstance(node, _GUARD_NODES)


def _is_size(node: ast.expr, power: int = _MAX_EXPONENT) -> bool:
    """Whether a size is arithmetic, with powers that make no number more than so many times longer."""
    match node:
        case ast.Constant(value=int() | float()):
            return True
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return True
        case ast.Name(id=name):
            return name in _SIZE_CONSTANTS
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=keywords):
            return name.isidentifier() and all(isinstance(word.value, ast.Constant) for word in keywords)
        case ast.Call(func=ast.Name(id=name), args=[base, exponent], keywords=[]) if name in _POWERS:
            number = _exponent(exponent)
            return number is not None and number <= power and _is_size(base, power // max(1, number))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name not in _POWERS:
            return name in _SIZE_FUNCTIONS and all(_is_size(argument, power) for argument in arguments)
    return False


def _exponent(node: ast.expr) -> int | None:
    """The size of an exponent; None if it is more than a number."""
    match node:
        case ast.Constant(value=int(number)) | ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number))):
            return number
        case ast.Call(func=ast.Name(id="Integer"), args=[number], keywords=[]):
            return _exponent(number)
    return None


def _containers(spec: dict[str, Any]) -> dict[str, Any]:
    """How arguments and answers are nested.

    A class other than Python's own would be imported by its name. One that names its parts, such as an answer of
    transformers, becomes a dictionary instead.
    """
    kind, children = spec["type"], spec["children_spec"]
    context = json.loads(spec["context"]) if spec["context"] is not None else None
    named = isinstance(context, list) and len(context) == len(children) and all(isinstance(key, str) for key in context)
    if kind not in _CONTAINERS:
        if not named:
            raise UnsafeGraphError(
                f"its arguments or answers are {str(kind)[:80]!r}, not tuples, lists or dictionaries"
            )
        kind = "builtins.dict"
    for key in context or []:
        if not isinstance(key, str):
            raise UnsafeGraphError(f"a dictionary of its arguments or answers has the key {str(key)[:80]!r}")
        _name(key)
    return {**spec, "type": kind, "children_spec": [_containers(child) for child in children]}
