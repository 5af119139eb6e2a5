"""`torch.export` programs (.pt2).

`torch.export.load` unpickles some parts of an archive and evaluates others as Python: symbolic sizes, guards and the
names of operators. So an archive is looked through before it is loaded: pickled constants are refused, expressions may
hold arithmetic and comparisons only, operators have to be torch's own, what torch pickles is read with weights only.
"""

from __future__ import annotations

import ast
import json
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.artefact import check_archive
from robustcheck.models.network import Network, first_line, freeze

_FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_MAX_JSON_BYTES = 256 * 1024 * 1024
_OPERATORS = (
    "torch.ops.aten.", "torch.ops.higher_order.", "torch.ops.torchvision.", "torch.ops.quantized_decomposed.",
    "math.", "torch.sym_",
)  # fmt: skip
_ARITHMETIC = frozenset(
    "add sub mul floordiv truediv mod pow neg pos eq ne lt le gt ge and_ or_ not_ getitem".split()  # noqa: SIM905
)
_EXPRESSION_NODES = (
    ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Name, ast.Constant, ast.Subscript,
    ast.Attribute, ast.Tuple, ast.List, ast.keyword, ast.Load, ast.operator, ast.boolop, ast.unaryop, ast.cmpop,
)  # fmt: skip
_CALLED_ATTRIBUTES = frozenset({"size", "stride", "storage_offset", "dim", "numel", "isnan", "is_contiguous"})
_READ_ATTRIBUTES = _CALLED_ATTRIBUTES | {"shape", "ndim", "dtype", "device", "inf", "nan"}


def load_exported(path: Path, device: torch.device) -> Network:
    """Load an exported program.

    Raises:
        CandidateError: it is none, cannot be loaded, or holds what could run code.
    """
    names = check_archive(path)
    if not any(name.endswith("archive_format") for name in names):
        raise CandidateError(
            f"{path.name} is not a torch.export archive of torch 2.9 or newer; export and save it again"
        )
    _check(path, names)
    try:
        with _weights_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            module = program.module()
    except Exception as error:  # noqa: BLE001 (the deserialiser raises whatever a broken archive makes it raise)
        raise CandidateError(f"{path.name} cannot be loaded as a torch.export program: {first_line(error)}") from None
    module.to(device)
    freeze(module)
    return Network(forward=module, device=device)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make every `torch.load` inside `torch.export.load` refuse code; it passes weights_only=False itself."""
    before = os.environ.get(_FORCE_WEIGHTS_ONLY)
    os.environ[_FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE_WEIGHTS_ONLY]
        else:
            os.environ[_FORCE_WEIGHTS_ONLY] = before


def _check(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in names:
            if "/data/aotinductor/" in name or name.endswith((".so", ".o")):
                raise CandidateError(f"{path.name} holds compiled code ({name}); export the program, not a package")
            if not name.endswith(".json"):
                continue
            if archive.getinfo(name).file_size > _MAX_JSON_BYTES:
                raise CandidateError(f"{path.name} holds {name}, larger than any network's graph; it is not loaded")
            try:
                document = json.loads(archive.read(name))
            except (ValueError, RecursionError) as error:
                raise CandidateError(f"{path.name} is broken: {name}: {first_line(error)}") from None
            reason = _payloads(document) if name.endswith("_config.json") else _program(document)
            if reason:
                raise CandidateError(f"{path.name} is not loaded: {reason}, which could run code")


def _payloads(document: Any) -> str | None:
    """Constants may be tensors; other kinds are unpickled by torch without a way to refuse."""
    entries = document.get("config", {}) if isinstance(document, dict) else {}
    for name, entry in entries.items():
        file = str(entry.get("path_name", "")) if isinstance(entry, dict) else ""
        if not file.startswith(("weight_", "tensor_")):
            return f"the constant {name!r} is a pickled object ({file!r})"
    return None


def _program(document: Any) -> str | None:
    """Look through a graph for operators and expressions that are not what a network needs."""
    stack = [document]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        if not isinstance(value, dict):
            continue
        stack.extend(value.values())
        target, expression = value.get("target"), value.get("expr_str")
        if isinstance(target, str) and "inputs" in value and not _is_operator(target):
            return f"its graph calls {target!r}"
        guards = value.get("guards_code")
        for text in [
            *([expression] if isinstance(expression, str) else []),
            *(guards if isinstance(guards, list) else []),
        ]:
            if not _is_arithmetic(text):
                return f"it holds the expression {str(text)[:80]!r}"
    return None


def _is_operator(target: str) -> bool:
    module, _, name = target.rpartition(".")
    return target.startswith(_OPERATORS) or (module in ("_operator", "operator") and name in _ARITHMETIC)


def _is_arithmetic(text: object) -> bool:
    try:
        tree = ast.parse(str(text), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_harmless(node) for node in ast.walk(tree))


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return not node.id.startswith("_")
    if isinstance(node, ast.Attribute):
        return node.attr in _READ_ATTRIBUTES
    if isinstance(node, ast.Call):
        # Functions of symbolic sizes are capitalised (FloorDiv, Max, Integer, …); no Python builtin that acts is.
        function = node.func
        named = isinstance(function, ast.Name) and function.id[:1].isupper()
        return named or (isinstance(function, ast.Attribute) and function.attr in _CALLED_ATTRIBUTES)
    return isinstance(node, _EXPRESSION_NODES)
