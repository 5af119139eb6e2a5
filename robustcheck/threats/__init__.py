"""What the adversary may do, and what it wants.

A `ball` (`linf`, `l2`) projects a search back into itself, samples its starts, and, in whole grey levels, says whether
a stored image belongs to it; a `region` does the same inside a mask. A `patch` lies where its placing lets it, and
conditions (`viewing`) say how images are seen. A goal (`goals`) says which samples it is about and which readings of
them are a success.
"""

from __future__ import annotations

from robustcheck.policy import Quantity
from robustcheck.threats.ball import Ball
from robustcheck.threats.goals import Goal
from robustcheck.threats.l2 import L2Ball
from robustcheck.threats.linf import LinfBall
from robustcheck.threats.region import Region

__all__ = ["Ball", "Goal", "L2Ball", "LinfBall", "Region", "ball_of"]


def ball_of(norm: str, budget: Quantity, bits: int) -> Ball:
    """The ball of a norm that a budget admits at a stored depth.

    Raises:
        EvaluationError: it admits no change at all, or in L∞ more than the whole range.
    """
    return L2Ball.of(budget, bits) if norm == "l2" else LinfBall.of(budget, bits)
