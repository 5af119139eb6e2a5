"""The tensors of a TorchScript archive.

Its pickles say where each lies in a record of the archive: at which place, of which sizes and strides. torch trusts
that and reads whatever lies there, so it is checked before.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Self

from robustcheck.models.pytorch.pickles import Dictionary, ForgedPickleError, Reader
from robustcheck.models.pytorch.torchscript_depth import is_nested_too_deeply

_MOST_NESTED = 200  # modules in modules come to three a level
_PICKLES = ("data", "constants")  # and the folders that their records are in
BYTES = {
    "Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Int": 4, "Long": 8, "Half": 2, "BFloat16": 2, "Float": 4, "Double": 8,
    "ComplexHalf": 4, "ComplexFloat": 8, "ComplexDouble": 16, "QInt8": 1, "QUInt8": 1, "QInt32": 4,
}  # fmt: skip


def check_tensors(archive: io.BytesIO) -> None:
    """Check where the tensors of an archive lie.

    Raises:
        ForgedPickleError: one lies outside of its record, or is of a kind that is not saved so; or the pickles ask for
            more than there is.
        Exception: any other: the pickles are broken.
    """
    with zipfile.ZipFile(archive) as opened:
        members = {member.filename.casefold(): member for member in opened.infolist()}  # torch does not mind the case
        records: dict[str, dict[str, int]] = {}
        for name, member in members.items():
            top, _, inner = name.partition("/")
            what, _, record = inner.partition("/")
            records.setdefault(f"{top}/{what}", {})[record] = member.file_size
        for name, member in members.items():
            folder, is_pickle, after = name.rpartition(".pkl")
            if is_pickle and not after and folder.partition("/")[2] in _PICKLES:
                _Pickle(opened.read(member), records.get(folder, {})).check()


class _Made:
    """Stands for whatever a pickle makes; it holds what it is made of."""

    def __new__(cls, *given: Any) -> Self:
        made = super().__new__(cls)
        made.held = list(given)
        return made

    held: list[Any]

    def __init__(self, *_given: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.held.append(state)


class _Pickle(Reader):
    """Makes nothing, and looks at tensors."""

    def __init__(self, content: bytes, records: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self._records = records

    def check(self) -> None:
        """Walk through it, and through what it comes to: torch calls itself for each of what holds another."""
        known = dict[int, int]()
        _height(self.load(), 0, known)
        for value in self.memo.values():
            _height(value, 0, known)
        if self.stack or self.metastack:
            raise pickle.UnpicklingError("it comes to more than one thing")

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class, or for what makes a tensor."""
        match module, name:
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_qtensor":
                return _tensor
            case "torch", _ if name.endswith("Storage"):
                return name.removesuffix("Storage")
            case "collections", "OrderedDict":
                return Dictionary
            case "torch.jit._pickle", "restore_type_tag":
                return _tagged
            case ("torch" | "torch.jit._pickle", _):
                return _Made
        if module.partition(".")[0] != "__torch__":
            raise ForgedPickleError(f"holds {f'{module}.{name}'!r:.80}, which no network needs")
        return _Made

    def persistent_load(self, told: Any) -> int:
        """How many numbers a storage has, if its record holds them."""
        _, kind, key, where, count = told
        if kind not in BYTES:
            raise ForgedPickleError(f"holds tensors of kind {kind!r:.40}, which are not read")
        size = self._records.get(key.casefold(), -1)
        if not 0 <= count * BYTES[kind] <= size or not isinstance(where, str):
            raise ForgedPickleError(f"says of its record {key!r:.40} that it holds {count} {kind!r:.40}; it does not")
        self.take(size)  # torch reads a record again for each tensor that lies in it
        return int(count)


def _height(value: Any, above: int, known: dict[int, int]) -> int:
    """How many of what a pickle makes hold one another, down from one that as many hold.

    Args:
        value: what it made.
        above: how many hold it.
        known: heights by the identity of what was looked at.

    Raises:
        ForgedPickleError: too many, or one holds itself.
    """
    inner = value if isinstance(value, (list, tuple)) else getattr(value, "held", ())
    if id(value) not in known and above <= _MOST_NESTED:
        below = max(
            (_height(one, above + 1, known) for one in inner if hasattr(one, "__len__") or hasattr(one, "held")),
            default=0,
        )
        known[id(value)] = 1 + below
    if above + known.get(id(value), 1) > _MOST_NESTED:
        raise ForgedPickleError("nests what it holds more deeply than any network needs")
    return known[id(value)]


def _tagged(value: Any, kind: str) -> _Made:
    """Something whose type stands beside it, as text that torch parses."""
    if is_nested_too_deeply(kind):
        raise ForgedPickleError("nests types more deeply than any network needs")
    return _Made(value)


def _tensor(stored: int, offset: int, sizes: Sequence[int], strides: Sequence[int], *more: Any) -> _Made:
    check_within(stored, offset, sizes, strides)
    return _Made(sizes, strides, *more)


def check_within(stored: int, offset: int, sizes: Sequence[int], strides: Sequence[int], *_more: Any) -> None:
    """Check that a tensor lies within so many numbers."""
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if min([offset, *sizes, *strides]) < 0 or (0 not in sizes and last >= stored):
        raise ForgedPickleError(
            f"has a tensor of sizes {tuple(sizes)} and strides {tuple(strides)} from {offset} on, in a record of "
            f"{stored}"
        )
