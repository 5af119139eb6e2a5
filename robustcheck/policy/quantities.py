"""Quantities of pixel space as a policy writes them: `2/255`, `0.01`, `3 levels`.

A budget is kept as an exact fraction, so that 2/255 of an 8-bit image is exactly two grey levels and no rounding
error decides whether a pixel lies inside the ball.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_FRACTION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*/\s*(\d{1,9})")
_DECIMAL = re.compile(r"\d{0,9}\.?\d{1,12}(?:[eE][-+]?\d{1,2})?")
_LEVELS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*levels?")

FORMS = "a share of the full range such as 2/255 or 0.01, or grey levels such as '3 levels'"


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """An amount in pixel space: a share of the full range, or a number of stored grey levels; one of them is None."""

    text: str  # as the policy says it
    share: Fraction | None = None
    levels: Fraction | None = None

    def in_levels(self, bits: int) -> Fraction:
        """Stored grey levels (not yet whole) that this is at a depth of `bits`."""
        if self.levels is not None:
            return self.levels
        assert self.share is not None
        return self.share * Fraction(2**bits - 1)

    @classmethod
    def parse(cls, value: object) -> Quantity:
        """Read a quantity.

        Raises:
            ValueError: it is none, or not between nothing and the full range; the message is for the user.
        """
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"found {value!r}; give {FORMS}")  # noqa: TRY004 (pydantic wants ValueError)
        text = str(value).strip()
        if text.startswith("-"):
            raise ValueError(f"found {text}; a budget cannot be negative")
        if re.fullmatch(r".*\d\s*HU", text):
            raise ValueError(
                f"found {text!r}; Hounsfield units need CT data, and this pixel space has none; give {FORMS}"
            )
        if text.endswith("%"):
            raise ValueError(f"found {text!r}; give {FORMS}")
        quantity = cls._parse_positive(text)
        if quantity is None:
            raise ValueError(f"found {text!r}; give {FORMS}")
        if quantity.share == 0 or quantity.levels == 0:
            raise ValueError(
                f"found {text}, which admits no change at all; leave the attack out to measure without one"
            )
        if quantity.share is not None and quantity.share > 1:
            raise ValueError(f"found {text}, more than the full range of pixel values{_hint(text)}")
        return quantity

    @classmethod
    def _parse_positive(cls, text: str) -> Quantity | None:
        if match := _FRACTION.fullmatch(text):
            return cls(text=re.sub(r"\s", "", text), share=_divide(match[1], match[2]))
        if match := _LEVELS.fullmatch(text):
            return cls(text=text, levels=Fraction(match[1]))
        if _DECIMAL.fullmatch(text):
            share = Fraction(text)
            # A bare 1 means one grey level to one reader and the full range to another.
            return cls(text=text, share=Fraction(2) if text == "1" else share)
        return None


def _divide(numerator: str, denominator: str) -> Fraction:
    if int(denominator) == 0:
        raise ValueError(f"found {numerator}/{denominator}, a division by zero")
    return Fraction(numerator) / int(denominator)


def _hint(text: str) -> str:
    if text.isdecimal() and int(text) <= 255:
        return f"; did you mean {text}/255 (a share of the range) or '{text} levels' (stored grey levels)?"
    return f"; give {FORMS}"
