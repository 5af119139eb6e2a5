"""What a file of torch.save asks for, before torch is asked for it.

With weights only, torch runs no code of a file; yet it calls what it has a list of with whatever a file says:
`bytearray(12_000_000_000)`, a set of the numbers of a tensor that is one number repeated a billion times, or a frame of
a traceback, which reads the file that it is said to be of. Here what torch.save writes of tensors (nested ones aside),
collections and numbers is let pass, each call with what torch.save gives it; so are classes that the user has allowed
torch to make (`torch.serialization.add_safe_globals`).
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from types import MethodType
from typing import Any, BinaryIO, ClassVar

import torch

from robustcheck.models.artefact import PICKLE_SLACK_BYTES
from robustcheck.models.pytorch.pickles import Dictionary, ForgedPickleError, Reader
from robustcheck.models.pytorch.torchscript_tensors import BYTES, check_within

_ZIP = b"PK\3\4"  # at the beginning, where torch looks for it
_STORAGE_SLACK = 64 << 20
_WORK = 1 << 27  # besides what the length of a pickle explains
_WORK_A_BYTE = 16
_MOST_IN_KEY = 10_000  # parts, and letters
_MOST_AXES = 64
_SPREAD = 1 << 61  # whole numbers below are their own hash: none of them is another's
_PACKED = {"QUInt4x2Storage": 2, "QUInt2x4Storage": 4}  # numbers in a byte
_ALLOWED_BY_TORCH = ("builtins", "traceback", "torch")  # what is no user's: exceptions, frames, and its own
_LATIN = ("latin1", "latin-1", "iso-8859-1")


class OtherClassError(pickle.UnpicklingError):
    """A file holds an object of a class that is none of tensors; the class, by any name that a file may give it."""


def check_checkpoint(source: Path | io.BytesIO) -> None:
    """Look through all that torch would unpickle of a file, as it reads it.

    Raises:
        ForgedPickleError: it asks for more than such a file holds.
        OtherClassError: it holds an object of a class whose code would run.
        pickle.UnpicklingError: it holds what torch.save does not write of tensors, collections and numbers.
        Exception: any other: it is broken.
    """
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source.getvalue()) as stream:
        beginning, size = stream.read(tarfile.BLOCKSIZE), stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if beginning.startswith(_ZIP):
            _check_zipped(stream, size)
        else:
            _check_bare(stream, beginning, size)


def _check_zipped(stream: BinaryIO, size: int) -> None:
    with zipfile.ZipFile(stream) as listed:
        sizes = {member.header_offset: member.file_size for member in listed.infolist()}
    stream.seek(0)
    archive: Any = torch._C.PyTorchFileReader(stream)  # torch's own: another may see other members of a name

    def size_of_record(name: str) -> int:
        return sizes[archive.get_record_header_offset(name)]

    if (length := size_of_record("data.pkl")) > size + PICKLE_SLACK_BYTES:
        raise ForgedPickleError(f"has a pickle compressed from {length:,} bytes, which torch never does")

    def size_of(key: str | int) -> int:
        return size_of_record(f"data/{key}")

    _Checkpoint(io.BytesIO(archive.get_record("data.pkl")), length, size, size_of).load()


def _check_bare(stream: BinaryIO, beginning: bytes, size: int) -> None:
    """The five pickles of torch before 1.6: two numbers, the writer's machine, the content, its storages' keys."""
    with suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(beginning, "utf-8", "surrogateescape")
        raise ForgedPickleError("is an archive of torch before 0.1.10, which holds more than tensors")
    found = [_Checkpoint(stream, size, size, lambda _key: size).load() for _ in range(5)]
    if not isinstance(found[-1], list) or not all(isinstance(key, (str, int)) for key in found[-1]):
        raise pickle.UnpicklingError("its storages have keys that are not texts")


class _Named:
    """Stands for what has a name in torch, such as a kind of numbers, and is not called; and for small things."""

    def __init__(self, name: str = "") -> None:
        self.name = name


class _OfUser(_Named):
    """Stands for what a class makes that the user has allowed: its code is theirs."""


class _Storage:
    """Stands for a row of numbers of a file."""

    def __init__(self, numbers: int, each: int, in_a_byte: int = 1) -> None:
        self.numbers, self.each = numbers, each  # bytes
        self.in_a_byte = in_a_byte  # numbers of less than one


class _Tensor:
    """Stands for a tensor."""

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers  # which may be one number of its storage so often


class _Checkpoint(Reader):
    """Walks through one pickle.

    Args:
        stream: begins with it.
        length: bytes of the pickle, at most.
        size: bytes of the file.
        size_of: how many bytes a storage has by its key.
    """

    def __init__(self, stream: BinaryIO, length: int, size: int, size_of: Callable[[str | int], int]) -> None:
        super().__init__(stream)
        self._size_of = size_of
        self._work, self._stored = _WORK + _WORK_A_BYTE * length, 2 * size + _STORAGE_SLACK
        self._keys = set[str | int]()
        self._hashes = Counter[int]()  # of keys that are no text and no small number
        self._allowed = {
            name
            for name in map(_name_of, torch.serialization.get_safe_globals())
            if name.split(".")[0] not in _ALLOWED_BY_TORCH
        }
        self._calls = {
            "collections.OrderedDict": self._mapping,
            "collections.Counter": self._counter,
            "builtins.set": self._set,
            "builtins.complex": self._complex,
            "builtins.bytearray": self._text,
            "_codecs.encode": self._text,
            "torch.Size": self._sizes,
            "torch.device": self._small,
            "torch.serialization._get_layout": self._small,
            "torch.nn.parameter.Parameter": self._parameter,
            "torch._tensor._rebuild_from_type_v2": self._of_type,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_of_bytes,
            "torch._utils._rebuild_meta_tensor_no_storage": self._meta,
            "torch._utils._rebuild_qtensor": self._quantised,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
            "torch._utils._rebuild_sparse_tensor": self._sparse,
            "torch._utils._rebuild_device_tensor_from_cpu_tensor": self._copied,
        }

    def find_class(self, module: str, name: str) -> Any:
        """What stands for something that is called, or for a name of torch."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if (call := self._calls.get(f"{module}.{name}")) is not None:
            return call
        if f"{module}.{name}" in self._allowed:
            return self._made_by_user
        if module not in ("torch", "torch.storage", "torch.cuda"):
            raise OtherClassError(f"{module}.{name}")
        return _Named(name)

    def persistent_load(self, told: Any) -> _Storage:
        """Numbers of the file, if it has so many."""
        word, kind, key, _, count, *rest = told
        each = BYTES.get(kind.name.removesuffix("Storage"), 1)
        if word != "storage" or not isinstance(key, (str, int)) or not 0 <= count * each <= self._size_of(key):
            raise ForgedPickleError(f"says of its storage {key!r:.40} that it holds {count!r:.40} numbers; it does not")
        if key not in self._keys:
            self._keys.add(key)
            self._stored -= count * each
        if self._stored < 0:
            raise ForgedPickleError("has storages that add up to more than it holds")
        if rest and rest[0] is not None:
            _, offset, part = rest[0]
            if not 0 <= offset <= offset + part <= count:
                raise ForgedPickleError(f"has {part!r:.40} numbers from {offset!r:.40} on, in a storage of {count}")
            count = part
        return _Storage(count, each, _PACKED.get(kind.name, 1))

    def on_key(self, key: Any) -> int:
        """Count what it takes to hash a key, and to compare it with those that have the same hash."""
        if isinstance(key, (str, bytes)):
            cost = 1 + len(key)
            self._take(cost)
        elif key is None or (isinstance(key, int) and abs(key) < _SPREAD):
            cost = 1
        else:
            cost = _parts(key)
            self._hashes[hashed := hash(_hashable(key))] += 1
            self._take(self._hashes[hashed] * cost)
        return cost

    def _take(self, work: int) -> None:
        self._work -= work
        if self._work < 0:
            raise ForgedPickleError("has a pickle that takes far more work than its length explains")

    def _call(self) -> None:
        arguments, call = self.stack.pop(), self.stack.pop()
        if not isinstance(call, MethodType):  # `find_class` gives no others
            raise pickle.UnpicklingError("it calls what makes no tensor")
        self._take(len(_listed(arguments)))
        self.append(call(*arguments))

    def _set_state(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], _OfUser):
            return
        if not isinstance(self.stack[-1], Dictionary) or not isinstance(state, Dictionary):
            raise pickle.UnpicklingError("it sets the state of what is no dictionary")
        self._take(state.cost)

    def _made_by_user(self, *_arguments: Any) -> _OfUser:
        return _OfUser()

    def _mapping(self, pairs: Any = ()) -> Dictionary:
        if isinstance(pairs, Dictionary):
            return self._counter(pairs)
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in _listed(pairs)):
            raise pickle.UnpicklingError("it makes a dictionary of what are no pairs")
        return self._counter([key for key, _ in pairs])

    def _counter(self, keys: Any = ()) -> Dictionary:
        made = Dictionary()
        if isinstance(keys, Dictionary):
            made.cost = keys.cost
            self._take(keys.cost)
        else:
            made.cost = sum(map(self.on_key, _listed(keys)))
        return made

    def _set(self, items: Any = ()) -> _Named:
        self._counter(_listed(items))
        return _Named()

    def _text(self, text: Any = "", codec: Any = "latin1") -> str:
        if not isinstance(text, str) or codec not in _LATIN:
            raise pickle.UnpicklingError("it makes bytes of what is no text")
        self._take(len(text))
        return text

    def _complex(self, *parts: Any) -> complex:
        if not all(isinstance(part, (int, float)) for part in parts):
            raise pickle.UnpicklingError("it makes a number of what are no numbers")
        return complex(*parts)

    def _small(self, *told: Any) -> _Named:
        if not all(isinstance(one, (str, int)) for one in told):
            raise pickle.UnpicklingError("it names a device or a layout by what is no name")
        return _Named()

    def _sizes(self, sizes: Any = ()) -> tuple[int, ...]:
        self._take(len(_listed(sizes)))
        return tuple(sizes)

    def _tensor(self, storage: Any, offset: int, sizes: Any, strides: Any, *_more: Any) -> _Tensor:
        return self._placed(storage.numbers * storage.in_a_byte, offset, sizes, strides)

    def _tensor_of_bytes(
        self, storage: Any, offset: int, sizes: Any, strides: Any, _grad: Any, _hooks: Any, kind: Any, *_more: Any
    ) -> _Tensor:
        if not isinstance(dtype := getattr(torch, kind.name, None), torch.dtype):
            raise pickle.UnpicklingError("it has a tensor of no kind of numbers")
        return self._placed(storage.numbers * storage.each // dtype.itemsize, offset, sizes, strides)

    def _placed(self, numbers: int, offset: int, sizes: Any, strides: Any) -> _Tensor:
        if len(_listed(sizes)) > _MOST_AXES:
            raise ForgedPickleError(f"has a tensor of {len(sizes):,} axes")
        check_within(numbers, offset, sizes, _listed(strides))
        return _Tensor(prod(sizes))

    def _meta(self, _kind: Any, sizes: Any, strides: Any, *_more: Any) -> _Tensor:
        """Of a tensor that has no numbers."""
        return self._placed(1, 0, sizes, [0] * len(_listed(strides)))

    def _quantised(self, storage: Any, offset: int, sizes: Any, strides: Any, scales: Any, *_more: Any) -> _Tensor:
        made = self._tensor(storage, offset, sizes, strides)
        self._take(made.numbers + sum(_numbers_in(part) for part in _listed(scales)))
        return made

    def _parameter(self, data: Any = None, *more: Any) -> _Tensor:
        if not isinstance(data, _Tensor):
            raise pickle.UnpicklingError("it makes a parameter of what is no tensor")
        self._take(_attributes(more))
        return data

    def _copied(self, data: Any, *_more: Any) -> _Tensor:
        """Of a tensor that was on a device without storages."""
        self._take(_numbers_in(data))
        return self._parameter(data)

    def _sparse(self, _layout: Any, parts: Any) -> _Tensor:
        self._take(sum(map(_numbers_in, _listed(parts))))
        return _Tensor(0)

    def _of_type(self, call: Any, _kind: Any, arguments: Any, state: Any) -> Any:
        if not isinstance(call, MethodType) or call == self._of_type:
            raise pickle.UnpicklingError("it calls what makes no tensor")
        self._take(len(_listed(arguments)) + _attributes(state if isinstance(state, tuple) else (state,)))
        return call(*arguments)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **Reader.dispatch,
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.BUILD[0]: _set_state,
    }


def _name_of(allowed: Any) -> str:
    """What a file calls a class that `add_safe_globals` was told, or a pair of it and such a name."""
    return allowed[1] if isinstance(allowed, tuple) else f"{allowed.__module__}.{allowed.__qualname__}"


def _hashable(key: Any) -> Any:
    """A key whose parts were counted, with names for what stands for something."""
    if isinstance(key, tuple):
        return tuple(map(_hashable, key))
    return key.name if isinstance(key, _Named) else key


def _listed(items: Any) -> Sequence[Any]:
    if not isinstance(items, (list, tuple)):
        raise pickle.UnpicklingError("it has something else where a list is")
    return items


def _attributes(states: Sequence[Any]) -> int:
    """How many attributes are set one by one, or more."""
    return sum(len(state.held) for state in states if isinstance(state, Dictionary))


def _numbers_in(part: Any) -> int:
    return part.numbers if isinstance(part, _Tensor) else len(part) if isinstance(part, (list, tuple)) else 1


def _parts(key: Any) -> int:
    """How many parts and letters a key has, those counted again that it holds again."""
    count, waiting = 0, [key]
    while waiting:
        one = waiting.pop()
        if isinstance(one, tuple):
            waiting += one
        elif not (one is None or isinstance(one, (str, bytes, int, float, complex, _Named))):
            raise pickle.UnpicklingError("it has a key that is no text and no number")
        count += 1 + (len(one) if isinstance(one, (str, bytes)) else 0)
        if count + len(waiting) > _MOST_IN_KEY:
            raise ForgedPickleError("has a key of more parts than any dictionary needs")
    return count
