"""Pickles looked through, and not made.

One of a kilobyte can ask for all memory, or for ever: for a memo of four billion places, or for the hash of a
tuple that holds another twice, which holds a third twice, and so on. So what torch is going to be asked for is counted
before it is asked.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from struct import unpack
from typing import Any, BinaryIO, ClassVar

from robustcheck import resources

_A_STEP = 256  # bytes that one step of a pickle may come to: a set, or a mark and what stands after it
_A_LETTER = 4
_MEMORY_IF_UNKNOWN = 4 << 30
_STEPS = (  # that torch writes, or wrote
    pickle.GLOBAL, pickle.NEWOBJ, pickle.REDUCE, pickle.BUILD, pickle.APPEND, pickle.APPENDS, pickle.SETITEM,
    pickle.SETITEMS, pickle.MARK, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.NONE,
    pickle.NEWFALSE, pickle.NEWTRUE, pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.BININT,
    pickle.BININT1, pickle.BININT2, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING, pickle.BINPERSID,
    pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.LONG1, pickle.PROTO,
)  # fmt: skip
_TOO_LARGE = "holds more than fits in the memory of this machine"
_UNUSED = 1000  # places of the memo that may be left out


class ForgedPickleError(ValueError):
    """A pickle that saving does not write; the message completes "net.pt "."""


class Dictionary:
    """Stands for a dictionary; none of its keys is hashed."""

    def __init__(self) -> None:
        self.held = list[Any]()  # keys and values
        self.cost = 0  # of hashing all of its keys


class Reader(pickle._Unpickler):  # the one in C takes as much memory as a pickle tells it to
    """Walks through a pickle; what it makes of classes and calls, `find_class` says."""

    memo: dict[int, Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.read, self.readline = stream.read, stream.readline
        self.stack, self.metastack = list[Any](), list[list[Any]]()
        self.append = self.stack.append
        self._left = resources.memory() or _MEMORY_IF_UNKNOWN

    def load(self) -> Any:
        """What the pickle comes to.

        Raises:
            ForgedPickleError: it asks for more than there is.
            Exception: any other: it is broken.
        """
        steps, read = self.dispatch, self.read
        for _ in range(self._left // _A_STEP):
            step = read(1)
            if step == pickle.STOP:
                return self.stack.pop()
            if not step:
                raise EOFError("it is cut short")
            if step[0] not in steps:
                raise pickle.UnpicklingError(f"step {step!r} is none that torch writes")
            steps[step[0]](self)
        raise ForgedPickleError(_TOO_LARGE)

    def take(self, count: int) -> None:
        """So many bytes of what there is."""
        self._left -= count
        if self._left < 0:
            raise ForgedPickleError(_TOO_LARGE)

    def on_key(self, _key: Any) -> int:
        """What it costs to hash a key."""
        return 1

    def _new_dictionary(self) -> None:
        self.append(Dictionary())

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def _set_items(self) -> None:
        self._put(self.pop_mark())

    def _put(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if not isinstance(into, Dictionary):
            raise pickle.UnpicklingError("it sets items of what is no dictionary")
        into.held += items
        into.cost += sum(map(self.on_key, items[::2]))

    def _read_text(self) -> None:
        (length,) = unpack("<I", self.read(4))
        self.take(_A_LETTER * length)
        self.append(str(self.read(length), "utf-8", "surrogatepass"))

    def _put_in_memo(self) -> None:
        self._remember(self.read(1)[0])

    def _put_far_in_memo(self) -> None:
        self._remember(unpack("<I", self.read(4))[0])

    def _remember(self, place: int) -> None:
        if place > 2 * len(self.memo) + _UNUSED:
            raise ForgedPickleError(f"has a pickle that wants {place:,} places for {len(self.memo):,} things")
        self.memo[place] = self.stack[-1]

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{step[0]: pickle._Unpickler.dispatch[step[0]] for step in _STEPS},
        pickle.EMPTY_DICT[0]: _new_dictionary,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BINUNICODE[0]: _read_text,
        pickle.BINPUT[0]: _put_in_memo,
        pickle.LONG_BINPUT[0]: _put_far_in_memo,
    }
