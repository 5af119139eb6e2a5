"""Quantities of pixel space as a policy writes them: `2/255`, `0.01`, `3 levels`, `20 HU`.

A budget is kept as an exact fraction, so that 2/255 of an 8-bit image is exactly two grey levels and no rounding
error decides whether a pixel lies inside the ball.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from robustcheck.words import shown

_NUMBER = r"\d{1,9}(?:\.\d{1,20})?"
_FRACTION = re.compile(rf"({_NUMBER})\s*/\s*(\d{{1,9}})", re.ASCII)
_DECIMAL = re.compile(r"(?:\d{1,9}\.?|\d{0,9}\.\d{1,40})(?:[eE][-+]?\d{1,2})?", re.ASCII)
_LEVELS = re.compile(rf"({_NUMBER})\s*levels?", re.ASCII)
_PERCENT = re.compile(rf"({_NUMBER})\s*%", re.ASCII)
_HOUNSFIELD = re.compile(rf"({_NUMBER})\s*HU", re.ASCII | re.IGNORECASE)
# For the JSON Schema, which editors check:
PATTERN = r"^\s*\d*\.?\d+([eE][-+]?\d+)?(\s*/\s*\d+|\s*levels?)?\s*$"
BUDGET_PATTERN = PATTERN.replace("levels?", "levels?|\\s*[hH][uU]")

_HAIR = Fraction(1, 50)  # of a level
_MOST_MISSED = 255  # levels; beyond that, one more or less does not matter
_DEEPEST = 16  # bits
_MOST_LEVELS = 2**_DEEPEST - 1
SAY_HOUNSFIELD = "if it does, set data.hounsfield to what level 0 is in Hounsfield units"
FORMS = "a share of the full range such as 2/255 or 0.01, or grey levels such as '3 levels'"


class NoChangeError(ValueError):
    """The quantity is zero."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """An amount in pixel space: a share of the full range, or a number of stored grey levels; one of them is None."""

    text: str  # as the policy says it
    share: Fraction | None = None
    levels: Fraction | None = None
    hounsfield: bool = False  # only for CT, whose levels are Hounsfield units

    def in_levels(self, bits: int) -> Fraction:
        """Stored grey levels (not yet whole) that this is at a depth of `bits`."""
        if self.levels is not None:
            return self.levels
        assert self.share is not None
        return self.share * Fraction(2**bits - 1)

    def levels_in_words(self, bits: int) -> str:
        """`7.99999`: these levels, with enough digits, from three, to show that they are fewer than the next number."""
        levels = self.in_levels(bits)
        written = (f"{float(levels):.{digits}g}" for digits in range(3, 18))
        least = ceil(levels)
        return next((text for text in written if levels == least or float(text) < least), f"just less than {least}")

    def a_hair_less(self, bits: int) -> str | None:
        """What to say about a decimal that was cut or rounded from a fraction such as 8/255, if it is a hair less.

        Since only whole levels are stored, it would allow one level less than was meant.
        """
        levels, most = self.in_levels(bits), 2**bits - 1
        short = ceil(levels) - levels
        if self.share is None or "/" in self.text or not 0 < short < _HAIR or levels > _MOST_MISSED:
            return None
        mantissa, _, exponent = self.text.lower().partition("e")
        last_digit = Fraction(10) ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
        if short / most >= last_digit or last_digit * most >= 1:  # another digit would have said which level is meant
            return None
        left = f"{floor(levels)} level{'s' if levels >= 2 else ''}"
        found = f"{self.levels_in_words(bits)} grey levels, of which {floor(levels)} can be stored"
        return f"{found}; did you mean {ceil(levels)}/{most}? give '{left}' if not"

    @classmethod
    def parse(cls, value: object, *, length: bool = False) -> Quantity:
        """Read a quantity.

        Args:
            value: as the policy has it.
            length: it may be the L2 length of a whole image's change, which can be more than the full range.

        Raises:
            ValueError: it is no quantity, or not between nothing and the full range; the message is for the user.
        """
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"found {shown(value)}; give {FORMS}")  # noqa: TRY004 (pydantic wants ValueError)
        text = " ".join(str(value).split())
        found = f"found {shown(text) if isinstance(value, str) else text}"
        quantity = cls._parse_positive(text)
        if quantity is None:
            why, meant = _why(text)
            raise ValueError(f"{found}{why}; give {FORMS}{meant}")
        if quantity.share == 0 or quantity.levels == 0:
            raise NoChangeError(f"{found}, which is no change at all; give {FORMS}")
        if text == "1" and not length:
            raise ValueError(f"{found}: is that one grey level or the full range? give 1/255, '1 level' or 255/255")
        if not length and ((quantity.share or 0) > 1 or (quantity.levels or 0) > _MOST_LEVELS):
            raise ValueError(f"{found}, more than the full range of pixel values{_hint(quantity.share)}")
        return quantity

    @classmethod
    def _parse_positive(cls, text: str) -> Quantity | None:
        if match := _FRACTION.fullmatch(text):
            divisor = int(match[2])
            if divisor == 0:
                raise ValueError(f"found {shown(text)}, a division by zero; give {FORMS}")
            return cls(text=re.sub(r"\s", "", text), share=Fraction(match[1]) / divisor)
        if match := _LEVELS.fullmatch(text):
            return cls(text=text, levels=Fraction(match[1]))
        if match := _HOUNSFIELD.fullmatch(text):
            return cls(text=text, levels=Fraction(match[1]), hounsfield=True)
        return cls(text=text, share=_share(text)) if _DECIMAL.fullmatch(text) else None


def _share(text: str) -> Fraction:
    """A decimal as a fraction; `0.03137254901960784`, which Python prints for 8/255, is 8/255 and not a hair less."""
    exact = Fraction(text)
    near = exact.limit_denominator(_MOST_LEVELS)
    return near if float(near) == float(exact) else exact


def _why(text: str) -> tuple[str, str]:
    """Why a text is no quantity, and what was perhaps meant."""
    if match := _PERCENT.fullmatch(text):
        return "", f"; did you mean {float(Fraction(match[1]) / 100):g}?"
    return (", which is negative" if text.startswith("-") else ""), ""


def _hint(share: Fraction | None) -> str:
    if share is not None and share.denominator == 1 and share <= 255:
        return f"; did you mean {share}/255 (a share of the range) or '{share} levels' (stored grey levels)?"
    return f"; give {FORMS}"
