"""The tensors of a TorchScript archive.

Its pickles say where each lies in a record of the archive: at which place, of which sizes and strides. torch trusts
that and reads whatever lies there, so it is checked before.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

_PICKLES = ("data", "constants")  # and the folders that their records are in
_BYTES = {
    "Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Int": 4, "Long": 8, "Half": 2, "BFloat16": 2, "Float": 4, "Double": 8,
    "ComplexHalf": 4, "ComplexFloat": 8, "ComplexDouble": 16, "QInt8": 1, "QUInt8": 1, "QInt32": 4,
}  # fmt: skip


class TensorOutsideError(ValueError):
    """A tensor that does not lie in its record; the message completes "net.ts "."""


def check_tensors(archive: io.BytesIO) -> None:
    """Check where the tensors of an archive lie.

    Raises:
        TensorOutsideError: one lies outside its record, or is of a kind that is not saved this way.
        pickle.UnpicklingError: or another error: the pickles are broken.
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
                _Reader(opened.read(member), records.get(folder, {})).load()


class _Made:
    """Stands for whatever a pickle makes."""

    def __init__(self, *_given: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


class _Reader(pickle._Unpickler):  # the one in C takes as much memory as a pickle tells it to
    """Makes nothing, and looks at tensors."""

    def __init__(self, content: bytes, records: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self._records = records

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class, or for what makes a tensor."""
        match module, name:
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_qtensor":
                return _check
            case "torch", _ if name.endswith("Storage"):
                return name.removesuffix("Storage")
            case "collections", "OrderedDict":
                return dict
            case ("torch" | "torch.jit._pickle", _):
                return _Made
        if module.partition(".")[0] != "__torch__":
            raise TensorOutsideError(f"holds {f'{module}.{name}'!r:.80}, which no network needs")
        return _Made

    def persistent_load(self, told: Any) -> int:
        """How many numbers a storage has, if its record holds them."""
        _, kind, key, _, count = told
        if kind not in _BYTES:
            raise TensorOutsideError(f"holds tensors of kind {kind!r:.40}, which are not read")
        if not 0 <= count * _BYTES[kind] <= self._records.get(key.casefold(), -1):
            raise TensorOutsideError(f"says of its record {key!r:.40} that it holds {count} {kind!r:.40}; it does not")
        return int(count)


def _check(stored: int, offset: int, sizes: Sequence[int], strides: Sequence[int], *_more: Any) -> _Made:
    """Check that a tensor lies within so many numbers."""
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if min([offset, *sizes, *strides]) < 0 or (0 not in sizes and last >= stored):
        raise TensorOutsideError(
            f"has a tensor of sizes {tuple(sizes)} and strides {tuple(strides)} from {offset} on, in a record of "
            f"{stored}"
        )
    return _Made()
