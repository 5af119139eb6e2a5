"""How much code functions that call each other amount to, once every call is replaced by what it calls.

A file of a kilobyte in which forty functions each call the one before twice amounts to a million million operators, and
whatever optimises it or infers from it writes them all out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

MOST_INLINED = 1_000_000  # operators; a large network has some ten thousand
ENDLESS = f"has functions whose calls add up to more than {MOST_INLINED:,} operators; it is not loaded"
"""Completes "net.ts "."""

Function = TypeVar("Function", bound=Hashable)


def is_endless(start: Function, look: Callable[[Function], tuple[int, Iterable[Function]]]) -> bool:
    """Whether a function amounts to more than `MOST_INLINED` operators, or calls itself.

    Args:
        start: the function.
        look: how many operators a function has, and what it calls, as often as it does.
    """
    found = dict[Function, tuple[int, list[Function]]]()
    waiting = [start]
    while waiting:
        if (function := waiting.pop()) not in found:
            own, called = look(function)
            found[function] = (own, list(called))
            waiting.extend(found[function][1])
    try:
        order = list(TopologicalSorter({function: called for function, (_, called) in found.items()}).static_order())
    except CycleError:
        return True
    total = dict[Function, int]()
    for function in order:
        own, called = found[function]
        total[function] = own + sum(total[one] for one in called)
        if total[function] > MOST_INLINED:
            return True
    return False
