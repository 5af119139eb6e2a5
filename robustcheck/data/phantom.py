"""`phantom:nodule`: synthetic chest radiographs, half of them with a lung nodule; drawn here, so nothing is downloaded.

The anatomy is a thorax in a square whose sides run from -1 to 1 (x to the right, y downwards), with the patient's
right lung on the left as on a radiograph. Density, not brightness, is composed: tissue that absorbs more is whiter.

Image i of a split is a function of (seed, split, i). Only raw generator words and operations that IEEE 754 rounds
exactly (+ - * / sqrt) are used, never exp, cos or a sum whose order a platform may choose, and the sum is rounded to
eight bits at the end, so the same bytes come out everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustcheck.errors import DataError

SIDE = 64
SPLITS = ("train", "val", "test")
LABELS = ("normal", "nodule")
DEFAULT_COUNT = 256

PARAMETERS, GRAINS = 192, 96  # words per image for its anatomy and for its texture; each pixel takes one more for noise
CHUNK = 32  # images drawn at a time, so that the arrays stay in the processor's cache; no pixel depends on it

Float = NDArray[np.floating[Any]]  # float32, every one: a test pins it


def generate(count: int, *, split: str, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `count` images of a split.

    Args:
        count: how many; any number. A shorter request is a prefix of a longer one.
        split: train, val or test: streams that share no draw.
        seed: not negative.

    Returns:
        Images (count, 64, 64) uint8 and labels (count,): 0 normal, 1 nodule, in turn.

    Raises:
        DataError: an unknown split, a negative count or seed.
    """
    if split not in SPLITS:
        raise DataError(f"phantom:nodule: split {split!r} does not exist; it has {', '.join(SPLITS)}")
    if count < 0 or seed < 0:
        raise DataError(f"phantom:nodule: count ({count}) and seed ({seed}) must not be negative")
    stream = np.random.Philox(np.random.SeedSequence([seed, SPLITS.index(split)]))
    images = np.empty((count, SIDE, SIDE), np.uint8)
    labels = np.arange(count, dtype=np.int64) % 2
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        words = stream.random_raw(size * (PARAMETERS + GRAINS + SIDE * SIDE)).reshape(size, -1)
        images[start : start + size] = radiographs(words, labels[start : start + size])
    return images, labels


def meant_by(labels: Sequence[str]) -> tuple[str, ...]:
    """Which of its labels a policy's two stand for: those of the same names, and others in the phantom's order."""
    swapped = labels[0] == LABELS[1] or labels[1] == LABELS[0]
    return LABELS[::-1] if swapped else LABELS


class Dice:
    """Hands out an image's parameters in a fixed order, each shaped (n, 1, 1)."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.uniform = unit(words)
        self.used = 0

    def between(self, low: float, high: float) -> Float:
        """The next parameter, uniform in [low, high)."""
        column = self.uniform[:, self.used, None, None]
        self.used += 1
        return np.float32(low) + column * np.float32(high - low)

    def chance(self, probability: float) -> Float:
        """1 with this probability, else 0."""
        return (self.between(0, 1) < np.float32(probability)).astype(np.float32)


class Lung(NamedTuple):
    """One lung of each image: where its root is, and how much of each pixel it fills (0 to 1)."""

    side: float  # -1 the patient's right (left of the image), 1 the patient's left
    root_x: Float
    root_y: Float
    fill: Float


def radiographs(words: NDArray[np.uint64], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images (n, 64, 64) from their random words (n, PARAMETERS + GRAINS + 64 * 64)."""
    dice = Dice(words[:, :PARAMETERS])
    grains = unit(words[:, PARAMETERS : PARAMETERS + GRAINS]) - np.float32(0.5)
    x, y = coordinates(dice)
    lungs = [lung(dice, x, y, side) for side in (-1.0, 1.0)]
    aerated = np.maximum(lungs[0].fill, lungs[1].fill)
    density = body(dice, x, y)
    density = blend(density, dice.between(0.20, 0.30), aerated)
    density += aerated * texture(dice, grains)
    for one in lungs:
        density += one.fill * vessels(dice, x, y, one)
    front, covered = mediastinum(dice, x, y)
    density += aerated * nodule(dice, aerated * (1 - covered), labels)
    density += bones(dice, x, y, aerated)
    density = blend(density, front, covered)
    density = film(dice, soften(dice, density), words[:, PARAMETERS + GRAINS :])
    stored: NDArray[np.uint8] = np.rint(np.clip(density, 0, 1) * np.float32(255)).astype(np.uint8)
    return stored


# Anatomy


def coordinates(dice: Dice) -> tuple[Float, Float]:
    """Where each pixel lies in the patient: build, position and tilt vary; (n, 64, 64) each."""
    axis = ((np.arange(SIDE, dtype=np.float32) * 2 - (SIDE - 1)) / np.float32(SIDE)).astype(np.float32)
    half = dice.between(-0.045, 0.045)  # tangent of half the tilt: up to 5 degrees, without a sine
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    size = dice.between(0.94, 1.10)
    across = axis[None, None, :] * size * dice.between(0.95, 1.07) + dice.between(-0.06, 0.06)
    down = axis[None, :, None] * size + dice.between(-0.06, 0.06)
    return across * cosine + down * sine, down * cosine - across * sine


def body(dice: Dice, x: Float, y: Float) -> Float:
    """Trunk, shoulders and abdomen on air."""
    lower = np.maximum(y + np.float32(0.55), 0)
    shoulder = np.maximum(-y - np.float32(0.45), 0)
    width = dice.between(0.90, 1.02) + np.float32(0.10) * shoulder - np.float32(0.03) * lower
    slope = np.maximum(np.abs(x) - np.float32(0.30), 0)
    top = np.float32(-1.16) + dice.between(0.30, 0.55) * slope
    inside = ramp((width - np.abs(x)) / np.float32(0.07)) * ramp((y - top) / np.float32(0.07))
    flesh = dice.between(0.54, 0.62) + np.float32(0.10) * ramp((y - np.float32(0.3)) / np.float32(0.7))
    rim = ramp((width - np.abs(x)) / np.float32(0.35))
    trunk: Float = inside * (flesh * (np.float32(0.72) + np.float32(0.28) * rim))
    return trunk + np.float32(0.03)


def lung(dice: Dice, x: Float, y: Float, side: float) -> Lung:
    """One lung field: a leaning egg whose base the diaphragm's dome cuts off."""
    outward = x * np.float32(side)
    middle = dice.between(0.40, 0.45) + np.float32(0.10) * y
    across = (outward - middle) / dice.between(0.34, 0.39)
    centre = dice.between(0.02, 0.10)
    down = (y - centre) / np.where(y < centre, dice.between(0.78, 0.88), dice.between(0.85, 0.95))
    square = down * down
    egg = across * across + np.where(y < centre, square, square * square)
    dome = dice.between(0.44, 0.60) + np.float32(0.04 if side > 0 else -0.02)
    bow = outward - np.float32(0.36)
    floor = dome + dice.between(0.8, 1.5) * bow * bow
    fill = ramp((np.float32(1.08) - egg) / np.float32(0.26)) * ramp((floor - y) / np.float32(0.07) + np.float32(0.5))
    root_y = dice.between(-0.10, 0.02) + np.float32(0.03 if side < 0 else -0.03)
    return Lung(side, np.float32(side) * dice.between(0.14, 0.20), root_y, fill)


def mediastinum(dice: Dice, x: Float, y: Float) -> tuple[Float, Float]:
    """Heart, great vessels and spine in front of everything: their density, and how much of each pixel they fill."""
    turn = dice.between(0.25, 0.55)
    across, down = x - dice.between(0.09, 0.15), y - dice.between(0.24, 0.33)
    long, short = across + turn * down, down - turn * across
    width, height = dice.between(0.34, 0.46), dice.between(0.27, 0.35)
    heart = ramp((1 - (long * long) / (width * width) - (short * short) / (height * height)) / np.float32(0.35))
    column = dice.between(0.12, 0.16) + np.float32(0.07) * ramp((np.float32(-0.5) - y) / np.float32(0.4))
    column = column + np.float32(0.06) * ramp((y + np.float32(0.2)) / np.float32(0.6))
    trunk = ramp((column - np.abs(x - dice.between(0.01, 0.04))) / np.float32(0.09))
    knob = disc(x - dice.between(0.09, 0.13), y + dice.between(0.25, 0.33), dice.between(0.09, 0.13), 0.09)
    artery = disc(x - dice.between(0.08, 0.13), y - dice.between(-0.08, 0.02), dice.between(0.11, 0.16), 0.12)
    atrium = disc(x + dice.between(0.06, 0.12), y - dice.between(0.22, 0.30), dice.between(0.15, 0.20), 0.12)
    fill = np.maximum(np.maximum(heart, trunk), np.maximum(knob, np.maximum(artery, atrium)))
    fill = fill * dice.between(0.86, 0.97)
    spine = ramp((np.float32(0.10) - np.abs(x)) / np.float32(0.05))
    disc_gap = np.abs(fraction(y * np.float32(6.5) + dice.between(0, 1)) - np.float32(0.5))
    density = dice.between(0.66, 0.76) + np.float32(0.08) * spine * (np.float32(0.6) + disc_gap)
    density = density + np.float32(0.05) * ramp((y - np.float32(0.1)) / np.float32(0.6))
    trachea = ramp((np.float32(0.065) - np.abs(x + np.float32(0.01))) / np.float32(0.05))
    return density - np.float32(0.16) * trachea * ramp((np.float32(-0.22) - y) / np.float32(0.15)), fill


def bones(dice: Dice, x: Float, y: Float, aerated: Float) -> Float:
    """Ribs behind (sharper, falling outwards), ribs in front (fainter, falling inwards) and collar bones."""
    outward = np.abs(x)
    cage = ramp((dice.between(0.86, 0.92) - outward) / np.float32(0.05)) * ramp(
        (np.float32(0.86) - y) / np.float32(0.2)
    )
    cage = cage * ramp((y + np.float32(0.98)) / np.float32(0.15))
    shown = cage * (np.float32(0.35) + np.float32(0.65) * aerated)
    spacing = dice.between(0.19, 0.225)
    behind = (y - outward * (dice.between(0.02, 0.12) + dice.between(0.38, 0.55) * outward)) / spacing + dice.between(
        0, 1
    )
    front = (y + outward * dice.between(0.35, 0.55)) / (spacing * np.float32(1.25)) + dice.between(0, 1)
    posterior = ramp((np.float32(0.27) - np.abs(fraction(behind) - np.float32(0.5))) / np.float32(0.12))
    anterior = ramp((np.float32(0.24) - np.abs(fraction(front) - np.float32(0.5))) / np.float32(0.2))
    anterior = anterior * ramp((outward - np.float32(0.32)) / np.float32(0.2))
    slope = dice.between(0.18, 0.38)
    collar = np.abs(y + dice.between(0.70, 0.80) + slope * (outward - np.float32(0.3)))
    clavicle = ramp((np.float32(0.075) - collar) / np.float32(0.04)) * ramp(
        (outward - np.float32(0.10)) / np.float32(0.05)
    )
    clavicle = clavicle * ramp((np.float32(0.80) - outward) / np.float32(0.1))
    return (
        shown * (dice.between(0.06, 0.12) * posterior + dice.between(0.015, 0.05) * anterior)
        + dice.between(0.08, 0.14) * clavicle
    )


def vessels(dice: Dice, x: Float, y: Float, one: Lung) -> Float:
    """Vessels that leave the lung's root and taper, and a few seen end-on: small dots that are no nodules."""
    near = slice(0, 40) if one.side < 0 else slice(24, SIDE)  # columns that a lung can reach at any tilt and build
    x, y = x[:, :, near], y[:, :, near]
    reach = np.maximum((x - one.root_x) * np.float32(one.side), 0)
    total = np.zeros_like(x)
    for fan in (-1.5, -0.8, -0.2, 0.4, 1.0, 1.8):
        rise = np.float32(fan) + dice.between(-0.25, 0.25)
        spread = 1 + np.abs(rise)
        along = reach * (spread / dice.between(0.30, 0.55))
        aside = np.abs(y - one.root_y - reach * (rise + rise * dice.between(-0.5, 0.5) * reach))
        taper = (1 - np.float32(0.5) * np.minimum(along, 1)) - aside * (20 / spread)
        strength = dice.between(0.08, 0.20) * ramp(np.float32(1.3) - along)
        total = np.maximum(total, strength * ramp(taper))
    hilum = disc(x - one.root_x, (y - one.root_y) * np.float32(0.7), dice.between(0.10, 0.16), 0.12)
    total = np.maximum(total, dice.between(0.10, 0.22) * hilum)
    for _ in range(2):
        dot_x = one.root_x + np.float32(one.side) * dice.between(0.08, 0.34)
        dot_y = one.root_y + dice.between(-0.35, 0.40)
        dot = disc(x - dot_x, y - dot_y, dice.between(0.035, 0.055), 0.04)
        total = total + dice.chance(0.6) * dice.between(0.04, 0.16) * dot
    return np.pad(total, ((0, 0), (0, 0), (near.start, SIDE - near.stop)))


def nodule(dice: Dice, open_lung: Float, labels: NDArray[np.int64]) -> Float:
    """A soft-edged disc, 2 to 5 pixels in radius, subtle to conspicuous, in a lung's open part where the label is 1."""
    clear = np.cumsum((open_lung > np.float32(0.95)).reshape(len(labels), -1), axis=1)
    wanted = np.floor(dice.between(0, 1)[:, :, 0] * clear[:, -1:].astype(np.float32))
    row, column = np.divmod(np.argmax(clear > wanted, axis=1), SIDE)
    pixel = np.arange(SIDE, dtype=np.float32)
    across = pixel[None, None, :] - column[:, None, None].astype(np.float32)
    down = pixel[None, :, None] - row[:, None, None].astype(np.float32)
    skew, stretch = dice.between(-0.25, 0.25), dice.between(0.85, 1.18)
    radius, edge = dice.between(2, 5), dice.between(0.35, 0.8)
    distance = np.sqrt((across + skew * down) ** 2 * stretch + down * down / stretch)
    profile = ramp((radius * (1 + edge / 2) - distance) / (radius * edge))
    rarity = dice.between(0, 1)
    contrast = np.float32(0.075) + np.float32(0.20) * rarity + np.float32(0.10) * (5 - radius) / 3
    return labels.astype(np.float32)[:, None, None] * contrast * profile


# Acquisition


def texture(dice: Dice, grains: Float) -> Float:
    """Mottled lung: a coarse and a finer cloud of value noise, (n, 64, 64)."""
    coarse, fine = grains[:, :25].reshape(-1, 5, 5), grains[:, 25 : 25 + 64].reshape(-1, 8, 8)
    return dice.between(0.03, 0.12) * cloud(coarse) + dice.between(0.02, 0.08) * cloud(fine)


def cloud(grid: Float) -> Float:
    """A grid (n, k, k) of values, smoothly blown up to (n, 64, 64)."""
    cells = grid.shape[1] - 1
    place = (np.arange(SIDE, dtype=np.float32) * np.float32(cells / SIDE)).astype(np.float32)
    low = place.astype(np.int64)
    share = ramp(place - low.astype(np.float32))
    rows = blend(grid[:, low], grid[:, low + 1], share[None, :, None])
    return blend(rows[:, :, low], rows[:, :, low + 1], share[None, None, :])


def soften(dice: Dice, density: Float) -> Float:
    """The focal spot's blur: a [b 1 b] kernel both ways."""
    weight = dice.between(0.05, 0.30)
    padded = np.pad(density, ((0, 0), (1, 1), (0, 0)), mode="edge")
    density = (padded[:, 1:-1] + weight * (padded[:, :-2] + padded[:, 2:])) / (1 + 2 * weight)
    padded = np.pad(density, ((0, 0), (0, 0), (1, 1)), mode="edge")
    return (padded[:, :, 1:-1] + weight * (padded[:, :, :-2] + padded[:, :, 2:])) / (1 + 2 * weight)


def film(dice: Dice, density: Float, words: NDArray[np.uint64]) -> Float:
    """Exposure, tone curve and quantum noise, which grows where less light came through."""
    tone = dice.between(-0.30, 0.35)
    density = np.clip(density, 0, 1)
    density = density + tone * density * (1 - density)
    density = density * dice.between(0.88, 1.12) + dice.between(-0.03, 0.05)
    lanes = sum(((words >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16, 32, 48))
    normal = (np.asarray(lanes, np.int64) - 131070).astype(np.float32) / np.float32(37837)  # four uniforms: near enough
    grain = dice.between(0.010, 0.028) * (np.float32(0.6) + np.float32(0.8) * np.clip(density, 0, 1))
    return density + grain * normal.reshape(-1, SIDE, SIDE)


# Arithmetic


def unit(words: NDArray[np.uint64]) -> Float:
    """Random words as numbers in [0, 1): 24 bits, so that each is exact."""
    return (words >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def ramp(value: Float) -> Float:
    """0 up to 0, 1 from 1 on, smooth between."""
    value = np.clip(value, 0, 1)
    smooth = value * -2
    smooth += 3
    smooth *= value
    smooth *= value
    return smooth


def disc(x: Float, y: Float, radius: Float, edge: float) -> Float:
    """1 inside the radius, falling to 0 over `edge`."""
    return ramp((radius - np.sqrt(x * x + y * y)) / np.float32(edge) + np.float32(0.5))


def fraction(value: Float) -> Float:
    """The part after the point, in [0, 1)."""
    return value - np.floor(value)


def blend(under: Float, over: Float, share: Float) -> Float:
    """`over` laid on `under` where share is 1."""
    return under + (over - under) * share
