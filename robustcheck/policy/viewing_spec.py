"""How a camera may see an image: conditions as ranges, each drawn from uniformly and independently."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictInt, WithJsonSchema

from robustcheck.policy.fields import Section, ShareField, is_number
from robustcheck.results.agreed import SET_BY_A_GRID
from robustcheck.words import shown

Range = tuple[float, float]

CAMERA_DISTANCE = 4.0  # of a camera that sees an image fill its view, in halves of the image's longer side

_LEAST, _LEAST_FROM_A_PLACE = 100, 10  # looks, where something is drawn for them that no place of a grid sets

_NUMBER: dict[str, Any] = {"type": "number"}
_SCHEMA = WithJsonSchema({"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}]})


def _range(low: float, high: float, of: Callable[[float], Range], words: str) -> BeforeValidator:
    """Reads a number, of which `of` makes a range, or `[from, to]`, within `low` and `high`."""

    def read(value: Any) -> Any:
        ends = value if isinstance(value, (list, tuple)) else [value]
        numbers = [end for end in ends if is_number(end)]
        if len(numbers) != len(ends) or not 1 <= len(ends) <= 2:
            raise ValueError(f"found {shown(value)}; give {words}, or [from, to]")
        found = of(numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
        if not low <= min(found) or not max(found) <= high:  # neither holds for a NaN
            given = shown(value) if len(ends) == 1 else f"{ends[0]} to {ends[1]}"
            raise ValueError(f"found {given}; it has to lie between {low:g} and {high:g}: {words}, or [from, to]")
        if found[0] > found[1]:
            raise ValueError(f"found {ends[0]} to {ends[1]}; the lower end comes first")
        return found

    return BeforeValidator(read)


def _each_way(most: float) -> Range:
    return -most, most


def _around_one(most: float) -> Range:
    return 1 - most, 1 + most


def _up_to(most: float) -> Range:
    return 0.0, most


Degrees = Annotated[Range, _range(-180, 180, _each_way, "degrees each way such as 15"), _SCHEMA]
Scale = Annotated[Range, _range(0.05, 20, _around_one, "a share each way such as 0.1, which is [0.9, 1.1]"), _SCHEMA]
Shift = Annotated[Range, _range(-10, 10, _each_way, "a share of the image's sides each way such as 0.1"), _SCHEMA]
Tilt = Annotated[Range, _range(-80, 80, _each_way, "degrees off the normal each way such as 20"), _SCHEMA]
Brightness = Annotated[Range, _range(-1, 1, _each_way, "a share of the full range each way such as 0.1"), _SCHEMA]
Contrast = Annotated[Range, _range(0, 20, _around_one, "a share each way such as 0.2, which is [0.8, 1.2]"), _SCHEMA]
Blur = Annotated[Range, _range(0, 1000, _up_to, "the largest standard deviation in pixels, such as 1"), _SCHEMA]
NoiseLevel = Annotated[
    Range, _range(0, 1, _up_to, "the largest standard deviation, a share of the range such as 0.02"), _SCHEMA
]
Resampling = Annotated[
    Range, _range(0.01, 1, lambda least: (least, 1.0), "the smallest share of the resolution such as 0.5"), _SCHEMA
]
Quality = Annotated[Range, _range(1, 100, lambda least: (least, 100.0), "the lowest quality such as 50"), _SCHEMA]


class ConditionsSpec(Section):
    """Viewing conditions: what is drawn for each look at an image, in this order, and how often one looks."""

    rotation: Degrees | None = Field(None, description="degrees each way, or [from, to]")
    perspective: Tilt | None = Field(None, description="degrees off the normal, each way, about a random axis")
    scale: Scale | None = Field(None, description="share each way, 0.1 is [0.9, 1.1]; below 1 as from further away")
    translation: Shift | None = Field(None, description="share of the image's side each way, along each axis")
    resampling: Resampling | None = Field(None, description="down to this share of the resolution, and back")
    blur: Blur | None = Field(None, description="Gaussian, standard deviation in pixels up to this")
    contrast: Contrast | None = Field(None, description="share each way about mid-grey, 0.2 is [0.8, 1.2]")
    brightness: Brightness | None = Field(None, description="added, share of the full range each way")
    noise: NoiseLevel | None = Field(None, description="Gaussian, standard deviation as a share of the full range")
    jpeg: Quality | None = Field(None, description="compressed with a quality from this to 100; gradients pass through")
    draws: Annotated[StrictInt, Field(ge=1, le=1024)] = Field(8, description="looks at an image in each gradient step")
    judged_on: Annotated[StrictInt, Field(ge=1, le=10_000)] = Field(
        100, description="fresh looks that a counterexample is judged on"
    )
    holds_on: ShareField = Field(0.9, description="share of those looks that it has to hold on")

    def looks_from(self, places: int, *, drawing: bool = False) -> int:
        """Looks from each of so many places of a grid: one, if neither conditions nor the candidate draw anything."""
        drawn = any(getattr(self, name) is not None for name in CONDITIONS if name not in SET_BY_A_GRID)
        return max(_LEAST_FROM_A_PLACE, ceil(_LEAST / places)) if drawn or drawing else 1

    def fresh_looks(self, *, drawing: bool) -> int:
        """Looks that a counterexample is judged on; for a candidate that draws, each is a call of its own."""
        return max(self.judged_on, _LEAST) if drawing else self.judged_on

    def reach(self, visible: Range) -> Range:
        """The shares of the full range, from the lowest to the highest, that some look brings to what is visible."""
        brightness = self.brightness or (0.0, 0.0)
        # A contrast of 0 makes every value mid-grey, so it bounds none.
        factors = [factor for factor in self.contrast or () if factor] or [1.0]
        sources = [(end - added - 0.5) / factor + 0.5 for end in visible for added in brightness for factor in factors]
        return max(0.0, min(*sources, *visible)), min(1.0, max(*sources, *visible))


CONDITIONS = tuple(name for name in ConditionsSpec.model_fields if name not in ("draws", "judged_on", "holds_on"))
