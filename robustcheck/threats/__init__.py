"""What the adversary may do: the sets of images that a threat model admits.

A set projects a search back into itself, samples its starts, and, in whole grey levels, says whether a stored image
belongs to it.
"""

from robustcheck.threats.linf import LinfBall

__all__ = ["LinfBall"]
