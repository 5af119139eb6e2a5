"""robustcheck as a contender of PGD: the ways in which a policy may ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to run robustcheck: keys that a policy may set, beside what all ways share."""

    title: str
    model: dict[str, Any]
    gate: dict[str, Any]


WAYS = {
    "exact": Way(title="robustcheck", model={}, gate={}),
    "descending": Way(title="robustcheck, ladder: descending", model={}, gate={"ladder": "descending"}),
    "full": Way(title="robustcheck, precision: full", model={"precision": "full"}, gate={}),
}


def pgd_gates(levels: Sequence[int], steps: int, **more: Any) -> list[dict[str, Any]]:
    """A gate without an attack, and PGD at each ε in 255ths; `more` are keys of the latter."""
    epsilons = [f"{level}/255" for level in levels]
    return [{"id": "clean"}, {"id": "pgd", "attack": {"name": "pgd", "steps": steps}, "epsilon": epsilons, **more}]
