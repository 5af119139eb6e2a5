"""How much of the range that files can store is used: it is known once all images have been decoded."""

from __future__ import annotations

from dataclasses import dataclass

from robustcheck.data.samples import PixelSpace

_USUAL = (8, 10, 12, 14)  # bits that devices store
USUAL_CT = (-1024, 12)  # Hounsfield units that they begin at, and bits


@dataclass(kw_only=True)
class Used:
    """The values of the images that were looked at, before any was inverted."""

    lowest: int | None = None
    highest: int | None = None

    def see(self, low: int, high: int) -> None:
        """One more image."""
        self.lowest = low if self.lowest is None else min(self.lowest, low)
        self.highest = high if self.highest is None else max(self.highest, high)


def unused(space: PixelSpace, used: Used, *, inverted: bool = False) -> str | None:
    """A note if at most a quarter of a range of more than eight bits is used; None elsewhere.

    Args:
        space: what can be stored.
        used: what is.
        inverted: the highest values are the darkest in some of the files.
    """
    low, high = used.lowest, used.highest
    if low is None or high is None or space.bits <= 8:
        return None
    bits, zero = _meant(space, low, high)
    if bits > space.bits - 2:
        return None
    found = f"no value is above {high} of {(1 << space.bits) - 1}"
    if space.zero:
        found = f"all values lie from {low} to {high} of {space}"
    hounsfield = "" if zero is None else f" and data.hounsfield: {zero}"
    seen = "" if inverted else f"; without preprocess.window the candidate is shown {_brightness(space, low, high)}"
    return (
        f"{found}, which budgets and brightness are shares of{seen}: if {bits} bits are meant, set data.bits: {bits}"
        f"{hounsfield}"
    )


def _brightness(space: PixelSpace, low: int, high: int) -> str:
    darkest, brightest = ((value - space.zero) / ((1 << space.bits) - 1) for value in (low, high))
    if space.zero:
        return f"images of {darkest:.0%} to {brightest:.0%} of full brightness".replace("%", " %")
    share = f"{brightest:.0%}" if brightest >= 0.01 or not brightest else f"{brightest:.1%}"
    return f"images of at most about {share} of full brightness".replace("%", " %")


def _meant(space: PixelSpace, low: int, high: int) -> tuple[int, int | None]:
    """Bits that hold these values, and what level 0 then is in Hounsfield units, if files say that they are in them."""
    if space.hounsfield is not None and space.hounsfield == space.zero:
        begin, bits = USUAL_CT
        zero = max(space.zero, min(begin, low))
        return max(bits, (high - zero).bit_length()), zero
    needed = max(high.bit_length(), (~low).bit_length()) + 1 if space.zero else high.bit_length()
    return next((bits for bits in _USUAL if bits >= needed), needed), None
