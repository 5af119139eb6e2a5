"""The attacks that lie on a part of the image: patches put anywhere, and stickers painted where they are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, WithJsonSchema

from robustcheck.policy.attack_entry import AttackEntry
from robustcheck.policy.fields import (
    PATH_SCHEMA,
    Label,
    Number,
    OneOrMany,
    RestartsField,
    ShareField,
    StepsField,
    is_number,
)
from robustcheck.policy.transfer_spec import SurrogatesEntry
from robustcheck.words import shown

Box = tuple[float, float, float, float]
"""Left, top, right, bottom: shares of the image's width and height."""

_MOST_SHOWN = 8  # values of a list
_SHARE: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
_BOX: dict[str, Any] = {"type": "array", "items": _SHARE, "minItems": 4, "maxItems": 4}
_BOXES = "boxes are [left, top, right, bottom], shares of the image's width and height such as [0.1, 0.1, 0.4, 0.3]"
_CENTRE = "random, or the centre as [x, y], shares of the image's width and height such as [0.5, 0.25]"


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _written(value: Any) -> str:
    """A value as a message quotes it, and of a list its first values."""
    if not isinstance(value, (list, tuple)):
        return shown(value)
    return f"[{', '.join(map(shown, value[:_MOST_SHOWN]))}{', …' * (len(value) > _MOST_SHOWN)}]"


def _area(value: Any) -> Any:
    """A file's name, one box, or a list of boxes."""
    if isinstance(value, str) and value:
        return value
    boxes = value if isinstance(value, list) and value and isinstance(value[0], (list, tuple)) else [value]
    for box in boxes:
        sound = isinstance(box, (list, tuple)) and len(box) == 4 and all(map(_is_share, box))
        if not sound:
            raise ValueError(f"found {_written(box)}; give a file, or boxes; {_BOXES}")
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ValueError(f"found {_written(box)}, a box without an area; {_BOXES}")
    return [tuple(map(float, box)) for box in boxes]


def _location(value: Any) -> Any:
    if value == "random" or (isinstance(value, list) and len(value) == 2 and all(map(_is_share, value))):
        return value
    sound = isinstance(value, list) and len(value) == 2 and all(map(is_number, value))
    outside = [shown(one) for one in value if not _is_share(one)] if sound else []
    beyond = f", where {' and '.join(outside)} {'is' if len(outside) == 1 else 'are'} not between 0 and 1"
    raise ValueError(f"found {_written(value)}{beyond if outside else ''}; give {_CENTRE}")


def _train_on(value: Any) -> Any:
    share = isinstance(value, float) and 0 < value < 1
    if value != "train" and not share:
        raise ValueError(
            f"found {shown(value)}; give train (the data's train split), or the share of the samples to train the "
            "patch on, which are then not judged, such as 0.5"
        )
    return value


AreaField = Annotated[
    StrictStr | tuple[Box, ...],
    BeforeValidator(_area),
    WithJsonSchema({"anyOf": [PATH_SCHEMA, _BOX, {"type": "array", "items": _BOX, "minItems": 1}]}),
]
LocationField = Annotated[
    Literal["random"] | tuple[float, float],
    BeforeValidator(_location),
    WithJsonSchema({"anyOf": [{"const": "random"}, {"type": "array", "items": _SHARE, "minItems": 2, "maxItems": 2}]}),
]
TrainOnField = Annotated[
    Literal["train"] | float,
    BeforeValidator(_train_on),
    WithJsonSchema({"anyOf": [{"const": "train"}, {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}]}),
]


class PatchSpec(SurrogatesEntry):
    """A patch that someone sticks on, wherever it comes to lie: one for all images, or one for each."""

    summary = "adversarial patch: one for all images (or one each), trained over places, angles and scales"
    needs = "gradients (white-box), surrogate or train (transfer), or patch (a given one); size (one or many)"
    source = "Brown, Mané, Roy, Abadi, Gilmer 2017, arXiv 1712.09665, equation 1"
    budget = "size"

    name: Literal["patch"]
    target: Label | None = Field(None, description="the label that the candidate should give (default: any wrong one)")
    universal: StrictBool = Field(True, description="one patch for all images; false: one for each")
    shape: Literal["circle", "square"] = Field("circle", description="its outline")
    location: LocationField = Field("random", description=_CENTRE)
    worst_of: Annotated[StrictInt, Field(ge=1, le=10_000)] = Field(
        1, description="places where it is tried, each drawn anew; one that turns the image is enough"
    )
    rotation: Annotated[Number, Field(ge=0, le=180)] = Field(22.5, description="degrees that it may be turned each way")
    scale: Annotated[Number, Field(ge=0, lt=1)] = Field(0.1, description="share by which its side may differ each way")
    keep_out: AreaField | None = Field(
        None, description="where it may not lie: boxes for all images, a .csv of boxes, or a folder of masks"
    )
    patch: StrictStr | None = Field(None, min_length=1, description="a .png or .npy to judge, instead of training one")
    train_on: TrainOnField = Field(
        "train", description="what it is trained on: the train split, or a share of the samples, then not judged"
    )
    images: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = Field(
        1000, description="at most how many of those images are used, drawn at random"
    )
    steps: StepsField | None = Field(None, description="training steps (default: 500, or 100 if not universal)")
    draws: Annotated[StrictInt, Field(ge=1, le=65536)] | None = Field(
        None,
        description="places per step, each on an image (default: 64); if not universal, per image (default: 16)",
    )
    step_size: ShareField = Field(0.05, description="of the optimiser (Adam), a share of what is visible; falls to 0")
    restarts: RestartsField = Field(1, description="patches that are trained, of which the best one is judged")
    resolution: Annotated[Number, Field(gt=0, le=16)] = Field(
        2, description="pixels of the patch for each pixel of the image that it covers, along a side"
    )


class RP2Spec(AttackEntry):
    """Stickers on each image, painted so that they turn it however it is seen."""

    summary = "robust physical perturbations: stickers in a mask, smooth and printable, over viewing conditions"
    needs = "gradients (white-box), stickers (boxes or a mask), conditions"
    source = "Eykholt et al. 2018, arXiv 1707.08945, equations 2 and 3"
    budget = "none"

    name: Literal["rp2"]
    stickers: AreaField = Field(description="where they are: boxes, or a .png mask whose white part they cover")
    steps: StepsField = Field(200, description="gradient steps")
    step_size: ShareField = Field(0.05, description="of the optimiser (Adam), a share of what is visible; falls to 0")
    size_weight: Annotated[Number, Field(ge=0)] = Field(0.4, description="weight of the mean absolute change (λ)")
    smoothness: Annotated[Number, Field(ge=0)] = Field(
        0.28, description="weight of the stickers' total variation, by the root of their pixels"
    )
    printability: Annotated[Number, Field(ge=0)] = Field(4.0, description="weight of the mean distance from an ink")
    printable: OneOrMany[Annotated[Number, Field(ge=0, le=1)]] = Field(
        (0.1, 0.3, 0.5, 0.7, 0.9),
        max_length=256,
        description="levels that the printer's inks reach in each channel, as shares of the visible range",
    )
    distances: OneOrMany[Annotated[Number, Field(gt=0, le=20)]] = Field(
        (1.0, 1.5, 2.0),
        max_length=16,
        description="distances of the grid that it is judged on; at 1 the image fills the view",
    )
    angles: OneOrMany[Annotated[Number, Field(ge=-80, le=80)]] = Field(
        (-30.0, -15.0, 0.0, 15.0, 30.0),
        max_length=16,
        description="angles of that grid, degrees off the normal, to the side",
    )

    @property
    def cells(self) -> int:
        """Places of the grid."""
        return len(self.distances) * len(self.angles)

    @property
    def plain_inks(self) -> tuple[float, ...]:
        """Those that stickers of one ink are tried in: the darkest, the one nearest to the middle, and the lightest."""
        inks = self.printable
        return tuple(sorted({min(inks), min(inks, key=lambda ink: abs(ink - 0.5)), max(inks)}))
