"""Mistakes about patches, stickers and how images are seen that no single field of a policy shows."""

from __future__ import annotations

from math import asin, cos, inf, radians, sin, sqrt
from pathlib import Path
from typing import Any

from robustcheck.policy.attack_specs import ASK_AN_ORACLE, ATTACKS, NO_EPSILON
from robustcheck.policy.model_checks import not_there
from robustcheck.policy.patch_specs import PatchSpec, RP2Spec
from robustcheck.policy.schema import GateSpec
from robustcheck.policy.sections import Faults, attack_name, attack_spec, one_of_labels, placed_entries, section, stands
from robustcheck.policy.sizes import Size
from robustcheck.policy.tree import KeyPath
from robustcheck.policy.viewing_spec import CAMERA_DISTANCE, CONDITIONS, ConditionsSpec
from robustcheck.words import listed, shown

_OF_A_BALL = ("epsilon", "norm", "ladder")
_FEWEST_PIXELS = 8  # along a side of an image
_FARTHEST_GRAIN = 4.33  # standard deviations: noise is drawn from quantiles of which this is the last
_OF_TRAINING = (
    "surrogate", "train", "universal", "train_on", "images", "steps", "draws", "step_size", "restarts",
)  # fmt: skip


def find(gate: dict[str, Any], at: KeyPath, data: dict[str, Any], folder: Path) -> Faults:
    """The mistakes of one gate."""
    name = attack_name(gate)
    if name is None:
        return
    yield from _budget(name, gate, at)
    yield from _sizes(gate, at)
    yield from _conditions(name, gate, at)
    attack = gate["attack"] if isinstance(gate["attack"], dict) else {}
    if name == "patch":
        yield from _patch(attack, gate, (*at, "attack"), data, folder)
    if name == "rp2":
        yield from _file(attack, "stickers", (*at, "attack"), folder, {".png"})
        yield from _grid(gate, at)


def _budget(name: str, gate: dict[str, Any], at: KeyPath) -> Faults:
    """A patch has a size, stickers their mask, and neither of them a ball."""
    if name in NO_EPSILON:
        bounds = "size bounds it" if name == "patch" else "attack.stickers bounds it"
        for key in _OF_A_BALL:
            if key in gate:
                yield (*at, key), f"is about a ball of small changes, which {name} lacks: {bounds}; leave it out"
    if name == "patch" and not stands("size", gate, GateSpec):
        yield (*at, "attack"), "patch needs size beside it, such as 10% of the image's area, or '32 px'"
    if name != "patch" and "size" in gate:
        yield (*at, "size"), f"is the size of a patch, but {name} has none; leave it out"
    if name == "rp2" and not stands("conditions", gate, GateSpec):
        yield (
            (*at, "attack"),
            "rp2 needs conditions beside it, over which stickers are painted, such as {scale: [0.5, 1], "
            "perspective: 30}",
        )


def _sizes(gate: dict[str, Any], at: KeyPath) -> Faults:
    """No size is listed twice."""
    seen = set[tuple[object, object]]()
    for value, where in placed_entries(gate.get("size"), (*at, "size")):
        try:
            size = Size.parse(value)
        except ValueError:
            continue  # a mistake of its own, reported with the schema's
        if (size.area, size.pixels) in seen:
            yield where, f"found {size.text}, for the second time in the list"
        seen.add((size.area, size.pixels))


def _conditions(name: str, gate: dict[str, Any], at: KeyPath) -> Faults:
    conditions = gate.get("conditions")
    if "conditions" not in gate:
        return
    where = (*at, "conditions")
    if name in ASK_AN_ORACLE:
        others = listed(other for other in ATTACKS if other not in ASK_AN_ORACLE)
        yield where, f"are for attacks that follow gradients, but {name} asks the candidate; use {others}"
    if not isinstance(conditions, dict):
        return
    if name == "patch" and "draws" in conditions:
        yield (
            (*where, "draws"),
            "counts looks at an image per step, but a patch is seen once at each of its places; leave it out, and set "
            "attack.draws, the places per step",
        )
    if not any(stands(key, conditions, ConditionsSpec) for key in CONDITIONS):
        yield where, f"has no condition; give at least one of {', '.join(CONDITIONS)}"
    try:
        spec = ConditionsSpec.model_validate(conditions)
    except ValueError:
        return  # reported with the schema's mistakes
    if (one_grey := _one_grey(spec)) is not None:
        yield (*where, one_grey[0]), f"found {one_grey[1]}, which leaves nothing of any image visible"
    if spec.translation is not None and _out_of_view(spec):
        yield (
            (*where, "translation"),
            f"found {spec.translation[0]:g} to {spec.translation[1]:g}, which moves every image out of view "
            "altogether; a shift of 1 is the image's whole side",
        )


def _grid(gate: dict[str, Any], at: KeyPath) -> Faults:
    """Stickers are judged on looks that they were painted for."""
    conditions, spec = gate.get("conditions"), attack_spec(gate)
    if not isinstance(conditions, dict) or not isinstance(spec, RP2Spec):
        return
    if "judged_on" in conditions:
        yield (*at, "conditions", "judged_on"), "is about fresh looks, but rp2 is judged on its grid; leave it out"
    try:
        seen = ConditionsSpec.model_validate(conditions)
    except ValueError:
        return
    for key, values, ends, what in (
        ("distances", [1 / distance for distance in spec.distances], seen.scale or (1.0, 1.0), "scale"),
        ("angles", list(spec.angles), seen.perspective or (0.0, 0.0), "perspective"),
    ):
        low, high = _magnitudes(ends)  # tilts are drawn to all sides: painted for 20 means for -20, too
        outside = [value for value in values if not low - 1e-6 <= abs(value) <= high + 1e-6]
        if outside:
            written = getattr(spec, key)[values.index(outside[0])]
            yield (
                (*at, "attack", key),
                f"found {written:g}, a {what} of {outside[0]:g}, but conditions.{what} goes from {ends[0]:g} to "
                f"{ends[1]:g}: stickers would be judged on looks they are not painted for; widen conditions.{what}, or "
                f"give other {key}",
            )


def _magnitudes(ends: tuple[float, float]) -> tuple[float, float]:
    """The least and the largest absolute value of what lies between two numbers."""
    low, high = sorted(map(abs, ends))
    return (0.0 if ends[0] <= 0 <= ends[1] else low), high


def _one_grey(spec: ConditionsSpec) -> tuple[str, str] | None:
    """The condition that makes every pixel of every look the same, whatever the image, and what was found of it.

    A contrast c and a brightness b take the levels from 0 to 1 to those from (1 - c) / 2 + b to (1 + c) / 2 + b.
    """
    contrast, brightness = spec.contrast or (1.0, 1.0), spec.brightness or (0.0, 0.0)
    if contrast == (0.0, 0.0):
        return "contrast", "0 to 0"
    grain = 0.0 if spec.noise is None else _FARTHEST_GRAIN * spec.noise[1]  # may bring it back into the range
    if _magnitudes(brightness)[0] < (1 + contrast[1]) / 2 + grain:
        return None
    beside = "" if spec.contrast is None else f" with a contrast of {contrast[0]:g} to {contrast[1]:g}"
    return "brightness", f"{brightness[0]:g} to {brightness[1]:g}{beside}"


def _out_of_view(spec: ConditionsSpec) -> bool:
    """Whether no draw leaves anything of an image to be seen, whatever its shape, from 8 pixels a side on.

    However it is turned, an image stays within the circle through its corners, and the view within the diagonal
    that the image is shifted along. So the two are apart if their corners are. Pixels are read linearly: what is at an
    edge is seen as far as half a pixel of the image beyond it, which is farther in an image of fewer pixels. Where
    there are fewer than 8, some of an image's edge may show.
    """
    nearest, _ = _magnitudes(spec.translation or (0.0, 0.0))
    scale = (spec.scale or (1.0, 1.0))[1]
    if spec.perspective is None:
        # A pixel of the view is read at its centre, half a pixel within the view's edge.
        reach = scale + max(0.0, scale - 1) / _FEWEST_PIXELS
    else:
        reach = _largest(scale * (1 + 1 / _FEWEST_PIXELS), _magnitudes(spec.perspective)[1])
    return nearest >= 0.5 + reach / 2 - 1e-9


def _largest(scale: float, tilt: float) -> float:
    """How far from the middle the corner of an image is ever seen, of where it is seen without conditions.

    Args:
        scale: the largest.
        tilt: the largest, in degrees.
    """
    # A corner comes nearer to a camera as it is tilted, and is seen farther out until it moves along the line of sight.
    corner = scale * sqrt(2) / CAMERA_DISTANCE
    angle = min(radians(tilt), asin(min(corner, 1.0)))
    ahead = 1 - corner * sin(angle)
    return scale * cos(angle) / ahead if ahead > 0 else inf


def _patch(attack: dict[str, Any], gate: dict[str, Any], at: KeyPath, data: dict[str, Any], folder: Path) -> Faults:
    model, samples = section(data, "model"), section(data, "data")
    if "target" in attack:
        yield from one_of_labels(attack["target"], (*at, "target"), model)
        if "goal" in gate:
            yield (*at[:-1], "goal"), "is given twice: attack.target already makes the goal targeted; leave goal out"
        elif model.get("task") == "multilabel":
            yield (*at, "target"), "is not for multilabel tasks; goal: missed_finding and goal: false_alarm are"
    yield from _file(attack, "patch", at, folder, {".png", ".npy"})
    yield from _file(attack, "keep_out", at, folder, {".csv", ""})
    spec = attack_spec(gate)
    if not isinstance(spec, PatchSpec):
        return
    untrained = [key for key in _OF_TRAINING if key in attack]
    if spec.patch is not None and untrained:
        yield (
            (*at, untrained[0]),
            "is about training a patch, but this gate is given one; leave one of the two out",
        )
    for key in ("train_on", "images", "restarts"):
        if not spec.universal and key in attack:
            yield (*at, key), "is for one patch for all images; with universal: false each is trained on its own image"
    if spec.universal and spec.patch is None and spec.train_on == "train" and samples.get("split") == "train":
        yield (
            at,
            "the patch would be judged on the images that it is trained on: data.split is train; write train_on: 0.5 "
            "to train it on half of the samples and judge it on the others",
        )
    if spec.worst_of > 1 and spec.location != "random" and not (spec.rotation or spec.scale):
        yield (
            (*at, "worst_of"),
            f"found {spec.worst_of}, but every place is the same: location, rotation and scale are fixed",
        )


def _file(attack: dict[str, Any], key: str, at: KeyPath, folder: Path, endings: set[str]) -> Faults:
    name = attack.get(key)
    if isinstance(name, str) and name and (reason := not_there(name, folder, endings)):
        yield (*at, key), reason
    elif isinstance(name, str) and name and not _is_one_of(folder / name, endings):
        allowed = listed(ending or "a folder" for ending in sorted(endings, reverse=True))
        yield (*at, key), f"found {shown(name)}; allowed: {allowed}"


def _is_one_of(path: Path, endings: set[str]) -> bool:
    return "" in endings if path.is_dir() else path.suffix.lower() in endings - {""}
