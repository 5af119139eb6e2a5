"""What a network's own exception says about the inputs that it is made for."""

from __future__ import annotations

import re
from pathlib import Path
from traceback import extract_tb

from robustcheck.models.network import first_line

_NO_GRAPH = "does not require grad and does not have a grad_fn"  # torch, of what it is to differentiate
_OTHERS_MISSING = re.compile(r"forward\(\) (missing \d+ required|is missing value for argument)")
# Of three-dimensional convolutions, and of code that takes five sizes from a shape.
_MORE_AXES = re.compile(r"weight of size \[\d+(, \d+){4}\]|\bconv3d\b|\(expected 5, got 4\)")


def not_one_image(error: Exception) -> str | None:
    """What to know about a network that takes more than one image, or more than two dimensions; None if it does not."""
    reason = str(error)
    if _OTHERS_MISSING.search(reason):
        return (
            "a candidate takes only one image: wrap a network that takes more in one that fills in the rest "
            "(docs/policy.md, 'Networks of more than an image')"
        )
    if _MORE_AXES.search(reason):
        return "a candidate takes one image of two dimensions: volumes and several views are not supported"
    return None


def asked_without_gradients(who: str, error: Exception) -> str | None:
    """The sentence about code that computes gradients itself, whatever the inputs are; None if it is about others."""
    if _NO_GRAPH not in str(error):
        return None
    return (
        f"{who} computes gradients in its forward, but it is asked without: wrap that part in torch.enable_grad() "
        f"({first_line(error)})"
    )


def reason_of(error: Exception) -> str:
    """What is wrong, in a few words; for an assertion without a message, its code and where it stands."""
    frames = extract_tb(error.__traceback__)
    if str(error) or not isinstance(error, AssertionError) or not frames:
        return first_line(error)
    code = (frames[-1].line or "an assertion fails").strip()
    return f"{code[:200]}, in {Path(frames[-1].filename).name}, line {frames[-1].lineno}"
