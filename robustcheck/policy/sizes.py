"""Sizes of patches as a policy writes them: `10%` of the image's area, or `32 px`, the side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from robustcheck.words import shown

_NUMBER = r"\d{1,9}(?:\.\d{1,20})?"
_PERCENT = re.compile(rf"({_NUMBER})\s*%", re.ASCII)
_PIXELS = re.compile(rf"({_NUMBER})\s*px", re.ASCII)
_PLAIN = re.compile(_NUMBER, re.ASCII)
PATTERN = r"^\s*\d+(\.\d+)?\s*(%|px)\s*$"  # for the JSON Schema, which editors check

FORMS = "a share of the image's area such as '10%', or the side in pixels such as '32 px'"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a patch is: a share of the image's area, or the length of its side; one of them is None."""

    text: str  # as the policy says it
    area: Fraction | None = None
    pixels: Fraction | None = None

    @classmethod
    def parse(cls, value: object) -> Size:
        """Read a size.

        Raises:
            ValueError: it is no size, or no part of an image; the message is for the user.
        """
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"found {shown(value)}; give {FORMS}")  # noqa: TRY004 (pydantic wants ValueError)
        text = " ".join(str(value).split())
        if match := _PERCENT.fullmatch(text):
            size = cls(text=re.sub(r"\s", "", text), area=Fraction(match[1]) / 100)
        elif match := _PIXELS.fullmatch(text):
            size = cls(text=f"{match[1]} px", pixels=Fraction(match[1]))
        else:
            raise ValueError(f"found {shown(value)}; give {FORMS}{_hint(text)}")
        if not (size.area or size.pixels):
            raise ValueError(f"found {shown(text)}, which is no patch at all; give {FORMS}")
        if size.area is not None and size.area >= 1:
            raise ValueError(f"found {shown(text)}; a patch covers less than the whole image: give {FORMS}")
        return size


def _hint(text: str) -> str:
    """What was probably meant by `0.1` or `32`, which are nearly sizes."""
    if _PLAIN.fullmatch(text) is None:
        return ""
    number = Fraction(text)
    return f"; did you mean '{float(number * 100):g}%'?" if number < 1 else f"; did you mean '{text} px' or '{text}%'?"
