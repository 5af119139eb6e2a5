"""TorchScript (.ts)."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.jit._recursive import wrap_cpp_module

from robustcheck.errors import CandidateError
from robustcheck.models.artefact import check_archive, checked_copy
from robustcheck.models.call_graph import ENDLESS, is_endless
from robustcheck.models.network import Network, Takes, dtype_of, first_line, freeze, in_dtype
from robustcheck.models.output_selection import Answering
from robustcheck.models.pytorch.pickles import ForgedPickleError
from robustcheck.models.pytorch.torch_operators import is_refused
from robustcheck.models.pytorch.torchscript_depth import is_nested_too_deeply
from robustcheck.models.pytorch.torchscript_tensors import check_tensors
from robustcheck.words import plural, shown

# TorchScript is a language of tensors, but these of its operators reach files. A function can be renamed
# (`f = torch.save`), and be called as a method (`image.set_`), so words are refused wherever they stand.
_REACHES_FILES = re.compile(r"\b(save|from_file|read_file|write_file|load_tensor)\b")
_GETATTR = re.compile(r"\bgetattr\b(?!\([\w.()]+, \"[\w.-]*\"\))")  # torch writes `getattr(self, "0")`, and no other
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')  # as torch writes all of them
_WORD = re.compile(r"[A-Za-z_]\w*")
_NAMESPACES = "aten|prim|quantized|_quantized|prepacked|torchvision"
_NAMED_OPS = re.compile(r"^ +ops : ", re.MULTILINE)  # a layer's attribute, where its class declares it
_FOREIGN = re.compile(rf"(?<![\w.])ops\b(?!\.(?:{_NAMESPACES})\.\w)[\w.]*")
_PLAIN_TYPES = frozenset({"TensorType", "NoneType", "IntType", "FloatType", "BoolType", "StringType", "NumberType"})
_DYNAMIC = re.compile(r"quantized::\w*_dynamic|aten::quantized_")  # they take the range of what they are given
_MAX_SOURCE_BYTES = 64 * 1024 * 1024


def load_torchscript(path: Path, device: torch.device, output: str | None) -> Network:
    """Load a scripted or traced module, in the mode that it was saved in.

    Args:
        path: the archive.
        device: where it is to work.
        output: which of several has the scores.

    Raises:
        CandidateError: the file is not TorchScript, or its code reaches for files, or memory that is not its own.
    """
    names = check_archive(path)
    if not any(name.endswith("/constants.pkl") for name in names):
        hint = "; a torch.export program is named .pt2" if any("archive_format" in name for name in names) else ""
        raise CandidateError(f"{path.name} is not a complete TorchScript archive (torch.jit.save){hint}")
    copy = checked_copy(path, partial(_checked_member, path))
    try:
        check_tensors(copy)
        copy.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own notice that TorchScript is deprecated
            module, unit = _loaded(copy, device)
    except ForgedPickleError as error:
        raise CandidateError(f"{path.name} {error}; it is not loaded") from None
    except Exception as error:  # noqa: BLE001 (torch raises whatever a broken archive makes it raise)
        raise CandidateError(f"{path.name} cannot be loaded as TorchScript: {first_line(error)}") from None
    _check_calls(path, module, unit)
    if not hasattr(module, "inlined_graph"):
        raise CandidateError(f"{path.name} has no forward, the method that a network is asked with; save one that has")
    _check_casts(path, module)
    freeze(module)
    dtype = dtype_of(module)
    return Network(
        forward=in_dtype(_Silent(Answering(module, output)), dtype),
        device=device,
        convolves_as_laid_out=dtype == torch.float32,
        precision=dtype,
        takes=_takes(module),
        quantised_by_batch=any(_DYNAMIC.match(node.kind()) for node in _nodes(module.inlined_graph)),
        in_training=lambda: next((name for name, part in module.named_modules() if _trains(part)), None),
    )


def _loaded(archive: io.BytesIO, device: torch.device) -> tuple[torch.jit.ScriptModule, Any]:
    """What `torch.jit.load` gives, and what it keeps to itself: the compilation unit with all functions."""
    unit = torch._C.CompilationUnit()
    read: Any = torch._C.import_ir_module_from_buffer  # whose stub is wrong
    return wrap_cpp_module(read(unit, archive.read(), device, {}, False)), unit


def _check_calls(path: Path, module: torch.jit.ScriptModule, unit: Any) -> None:
    """Refuse functions that call each other nearly without end, before any graph of them is written out."""

    def look(name: str) -> tuple[int, list[str]]:
        function = unit.find_function(name)
        nodes = [] if function is None else list(_nodes(function.graph))
        return len(nodes), [called for node in nodes if (called := _called(node)) is not None]

    for method in module._c._method_names():
        if is_endless(f"{module._c.qualified_name}.{method}", look):
            raise CandidateError(f"{path.name} {ENDLESS}")


def _called(node: Any) -> str | None:
    """The name of the function, or the method, that a node calls."""
    if node.kind() == "prim::CallMethod":
        return f"{node.inputsAt(0).type().annotation_str}.{node.s('name')}"
    return str(node.inputsAt(0).type().annotation_str) if node.kind() == "prim::CallFunction" else None


class _Silent(torch.nn.Module):
    """A network whose warnings are not shown: what they say is whatever its file says."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """What it answers."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer: torch.Tensor = self.network(inputs)
        _check_batch(answer, len(inputs))
        return answer


def _check_batch(answer: object, count: int) -> None:
    """Refuse rows of another number of images, which a trace may hold as a constant."""
    if isinstance(answer, torch.Tensor) and answer.ndim > 1 and len(answer) != count:
        cure = "or set model.batch_size: 1" if len(answer) == 1 else "or trace it for one and set model.batch_size: 1"
        raise CandidateError(
            f"the candidate answers {count} images with scores of shape {tuple(answer.shape)}, like one that was "
            f"traced for {plural(len(answer), 'image')}: trace it so that their number may vary (x.shape[0], without "
            f"int()), {cure}"
        )


def _check_casts(path: Path, module: torch.jit.ScriptModule) -> None:
    """Refuse code that takes an object of one class for one of another, whose parts lie elsewhere in memory."""
    for node in _nodes(module.inlined_graph):
        if node.kind() == "prim::unchecked_cast":
            given, wanted = node.input().type(), node.output().type()
            inner = given.getElementType() if given.kind() == "OptionalType" else given
            known = given.kind() == "NoneType" or inner.isSubtypeOf(wanted)
            if not known and wanted.kind() not in _PLAIN_TYPES:
                hint = "trace the network, or give that one type; " if given.kind() == "UnionType" else ""
                raise CandidateError(
                    f"{path.name} takes {shown(given.annotation_str)} for {shown(wanted.annotation_str)} unchecked; "
                    f"{hint}it is not loaded"
                )


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node of a graph, also in its blocks and in graphs that it holds."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _nodes(block)
        if node.hasAttribute("Subgraph"):
            yield from _nodes(node.g("Subgraph"))


def _trains(module: torch.nn.Module) -> bool:
    """Whether it is a layer that training mode changes, and in it. What a function of the network's own drops is by
    design."""
    # A frozen module has no mode left: it was frozen in evaluation mode.
    kind = str(getattr(module, "original_name", ""))
    return getattr(module, "training", False) and ("Dropout" in kind or "BatchNorm" in kind)


def _checked_member(path: Path, name: str, content: bytes) -> bytes | None:
    if name.lower().endswith(".debug_pkl"):
        return None  # where lines of its code were written, a pickle that only messages need
    if name.partition("/")[2].lower() in ("model.json", "attributes.pkl"):
        raise CandidateError(f"{path.name} is TorchScript from before torch 1.4; save it again")
    if not name.lower().endswith(".py"):
        return content
    if len(content) > _MAX_SOURCE_BYTES:
        raise CandidateError(f"{path.name} holds {shown(name)}, more code than any network needs; it is not loaded")
    source = content.decode("utf-8", "replace")
    if match := _REACHES_FILES.search(source):
        raise CandidateError(
            f"{path.name} names {match[0]!r} in {shown(name)}, with which TorchScript reaches files; "
            "a candidate does not read or write files"
        )
    if _GETATTR.search(source):
        where = shown(name)
        raise CandidateError(f"{path.name} looks up names by getattr in {where}, which torch.jit.save does not write")
    _check_words(path, name, source)
    return content


def _check_words(path: Path, name: str, source: str) -> None:
    """Refuse operators that are not run, before loading, which runs some of the code."""
    code = _NAMED_OPS.sub("", _STRING.sub("", source))
    if '"""' in source or '"' in code or "'" in code:
        raise CandidateError(f"{path.name} writes strings in {shown(name)} in a way that torch.jit.save does not")
    if is_nested_too_deeply(code):
        where = shown(name)
        raise CandidateError(f"{path.name} nests code in {where} more deeply than any network needs; it is not loaded")
    if match := _FOREIGN.search(code):
        allowed = _NAMESPACES.replace("|", ", ")
        raise CandidateError(
            f"{path.name} calls {shown(match[0])} in {shown(name)}, which may reach any memory; only operators of "
            f"{allowed} are run"
        )
    for word in sorted(set(_WORD.findall(code))):
        if word in ("print", "Print") or (is_refused(word) and torch._C._jit_get_schemas_for_operator(f"aten::{word}")):
            raise CandidateError(
                f"{path.name} names {word!r} in {shown(name)}, which is not among the operators that are run "
                "(a layer or variable of that name has to be renamed)"
            )


def _takes(module: torch.jit.ScriptModule) -> Takes | None:
    """The channels of the first layer, if that is a convolution."""
    first = next(iter(module.parameters()), None)
    return (None, first.shape[1], None, None) if first is not None and first.ndim == 4 else None
