"""The counterexamples as pictures in the report: clean, attacked, and what was changed.

A report may come from anybody, and its file names with it. Nothing outside the report's folder is read, nothing
large is decoded, and a picture is left out if it cannot be read, or is not the one whose digest the report states.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustcheck.digests import pixels_sha256
from robustcheck.results import GateResult, Outcome

MOST_BYTES = 16 << 20
MOST_PIXELS = 1 << 24
_LEAST_BYTES = 1 << 16  # of a file, whatever is in it
MOST_CHANNELS = 3
MOST_TRIED = 1000  # broken samples, a gate, whose files are looked for
_STRETCHED_BELOW = 1 / 4  # share of the levels that an image uses: unstretched, its picture would be one even grey
MOST_DECODED = 1000  # files in all: a small report may name one large picture any number of times
LONGEST_SHOWN = 384  # pixels of the longer side; larger pictures are reduced, or reports would be hundreds of MB

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NPY_SIGNATURE = b"\x93NUMPY"
_NPY_PREFIX = 10  # bytes before the header: signature, version, the header's length
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(\|u1|<u2)', 'fortran_order': False, "
    rb"'shape': \((\d{1,9}), (\d{1,9}), (\d{1,9})\), \}",
    re.DOTALL,
)
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError)  # the last: circular links, up to Python 3.12

Stored = NDArray[np.unsignedinteger]
"""An image as it is stored: (C, H, W), unsigned integers."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One sample before and after; the pictures are data URIs."""

    outcome: Outcome
    clean_file: str  # the unattacked image's, as the outcome names the counterexample's
    clean: str
    attacked: str
    difference: str
    width: int
    height: int
    reduced: bool  # shown smaller than it is stored
    enlarged: bool  # shown larger: its pixels should stay sharp
    amplification: float  # of the difference picture
    stretched: bool  # shown from its darkest to its brightest value
    changed_levels: int  # largest difference, in stored grey levels


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A gate's examples."""

    examples: tuple[Example, ...] = ()
    not_as_judged: int = 0  # left out: the pixels are not those whose digest the report states
    full: bool = False  # there may be more, but the page has no room for them


@dataclass(frozen=True, kw_only=True)
class PatchPicture:
    """The patch that a gate judged."""

    picture: str | None = None  # a data URI
    left_out: str = ""  # why there is no picture, though a file is named


class Album:
    """The pictures of a report's folder; a page shows at most a given number, whatever the report says."""

    def __init__(self, folder: Path, bits: int | None, room: int) -> None:
        self.bits, self.room = bits, room
        self._folder, self._decoded = folder, 0

    def read(self, name: str) -> Stored | None:
        """A stored image, unless there is none, or too many were decoded before."""
        content = content_of(self._folder, name, MOST_BYTES) if self._decoded < MOST_DECODED else None
        if content is None:
            return None
        self._decoded += 1
        return _decoded(content, MOST_PIXELS)


def gallery(gate: GateResult, album: Album, most: int) -> Gallery:
    """Up to `most` broken samples that have both pictures in the folder, those that this gate broke first."""
    broken = [outcome for outcome in gate.samples if outcome.status == "broken" and outcome.counterexample]
    broken.sort(key=lambda outcome: outcome.found_by != gate.id)
    ball = gate.threat.ball if gate.threat else None
    span = int(ball.levels) if ball and ball.norm == "linf" else 0
    shown: list[Example] = []
    not_as_judged = 0
    for outcome in broken[:MOST_TRIED]:
        if len(shown) == most or not album.room:
            break
        pair = _pair(album, outcome)
        if pair and outcome.sha256 not in (None, pixels_sha256(pair[2])):
            not_as_judged += 1
        elif pair:
            shown.append(_example(outcome, *pair, bits=album.bits, span=span))
            album.room -= 1
    full = len(shown) < min(most, len(broken)) and not album.room
    return Gallery(examples=tuple(shown), not_as_judged=not_as_judged, full=full)


def patch_picture(gate: GateResult, album: Album) -> PatchPicture:
    """The patch that a gate judged, if its file is there, is the one that was judged, and the page has room."""
    name = (gate.patch.picture or gate.patch.array) if gate.patch else None
    if gate.patch is None or not name:
        return PatchPicture()
    if not album.room:
        return PatchPicture(left_out="the page has no room for more pictures")
    stored = album.read(name)
    if stored is None:
        return PatchPicture(left_out="the file is not there, or cannot be shown")
    if pixels_sha256(stored) != gate.patch.sha256:
        return PatchPicture(left_out="the file is not the one that was judged (its digest differs)")
    album.room -= 1
    shares = _reduced(stored, _reduction(stored)) / _largest_value(stored, album.bits)
    return PatchPicture(picture=_data_uri(shares))


def link_to(name: str) -> str:
    """A link to a file in the page's own folder: whatever the file's name, it leads nowhere else."""
    return "./" + quote(name, errors="surrogateescape")


def _pair(album: Album, outcome: Outcome) -> tuple[str, Stored, Stored] | None:
    """A sample's clean image, with its file, and the attacked one, if both are there and alike in shape and depth."""
    # Most broken samples have no clean picture: ask for it first.
    found = ((path, image) for path in outcome.clean_files if (image := album.read(path)) is not None)
    path, clean = next(found, ("", None))
    attacked = album.read(outcome.counterexample or "") if clean is not None else None
    if clean is None or attacked is None or clean.shape != attacked.shape or clean.dtype != attacked.dtype:
        return None
    return path, clean, attacked


def read_stored(folder: Path, name: str, most_values: int) -> Stored | None:
    """A stored image in the folder; None if it is not there, not inside, too large, or not an image.

    Args:
        folder: the report's.
        name: the file's, relative to it.
        most_values: the most that it may have.
    """
    # A compressed picture of noise is a little larger than its values of two bytes each.
    content = content_of(folder, name, 3 * most_values + _LEAST_BYTES)
    return None if content is None else _decoded(content, most_values)


def content_of(folder: Path, name: str, most: int) -> bytes | None:
    """A file in the folder; None if it is not there, not inside, or larger than so many bytes."""
    try:
        path = _inside(folder, name)
        if path is None or path.stat().st_size > most:
            return None
        with path.open("rb") as file:
            content = file.read(most + 1)
    except _UNREADABLE:
        return None
    return content if len(content) <= most else None


def digest_of(folder: Path, name: str, size: int) -> str | None:
    """The sha256 of a file in the folder; None if it is not there, not inside, or not of so many bytes."""
    try:
        path = _inside(folder, name)
        if path is None or path.stat().st_size != size:
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except _UNREADABLE:
        return None


def _decoded(content: bytes, most_pixels: int) -> Stored | None:
    decode = _decode_npy if content.startswith(_NPY_SIGNATURE) else _decode_png
    try:
        return decode(content, most_pixels)
    except _UNREADABLE:
        return None


def _inside(folder: Path, name: str) -> Path | None:
    """The regular file inside the folder that a relative name means, links followed; None if it leads outside."""
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in re.split(r"[/\\]", name):
        return None
    root = folder.resolve(strict=True)
    path = (root / name).resolve(strict=True)
    return path if path.is_relative_to(root) and path.is_file() else None


def _decode_png(content: bytes, most_pixels: int) -> Stored | None:
    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    # Before Pillow looks at it: a small file can claim gigabytes.
    if not content.startswith(_PNG_SIGNATURE) or not 0 < width * height <= most_pixels:
        return None
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if image.mode not in {"L", "RGB", "I;16"} or getattr(image, "n_frames", 1) != 1:
            return None
        pixels = np.asarray(image)
    return pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _decode_npy(content: bytes, most_pixels: int) -> Stored | None:
    # Not np.load: it allocates whatever a header claims, and its parser of headers fails in many ways.
    found = _NPY_HEADER.match(content)
    if found is None:
        return None
    channels, height, width = (int(found[axis]) for axis in (2, 3, 4))
    if not 0 < channels <= MOST_CHANNELS or not 0 < height * width <= most_pixels:
        return None
    start = _NPY_PREFIX + int.from_bytes(content[_NPY_PREFIX - 2 : _NPY_PREFIX], "little")
    dtype = np.dtype(np.uint8) if found[1] == b"|u1" else np.dtype("<u2")
    values: Stored = np.frombuffer(content, dtype=dtype, offset=start, count=channels * height * width)
    return values.reshape(channels, height, width)


def _example(
    outcome: Outcome, clean_file: str, clean: Stored, attacked: Stored, *, bits: int | None, span: int
) -> Example:
    low, full = _shown_range(clean, bits)
    change = attacked.astype(np.int64) - clean.astype(np.int64)
    largest = int(np.abs(change).max())
    span = min(span, full) if span > 0 else max(largest, 1)
    _, height, width = clean.shape
    step = _reduction(clean)
    return Example(
        outcome=outcome,
        clean_file=clean_file,
        clean=_data_uri((_reduced(clean, step) - low) / full),
        attacked=_data_uri((_reduced(attacked, step) - low) / full),
        # Every step-th pixel, not a mean over them: a mean would hide most of a noise-like change.
        difference=_data_uri(0.5 + change[:, ::step, ::step] / (2 * span)),
        width=-(-width // step),
        height=-(-height // step),
        reduced=step > 1,
        enlarged=max(height, width) < LONGEST_SHOWN,
        amplification=full / (2 * span),
        stretched=full < _largest_value(clean, bits),
        changed_levels=largest,
    )


def _shown_range(clean: Stored, bits: int | None) -> tuple[int, int]:
    """The level shown as black, and how many levels above it white is; of the full range, or of the range used."""
    full = _largest_value(clean, bits)
    low, high = int(clean.min()), int(clean.max())
    stretched = clean.dtype != np.uint8 and 0 < high - low < full * _STRETCHED_BELOW
    return (low, high - low) if stretched else (0, full)


def _largest_value(stored: Stored, bits: int | None) -> int:
    """The largest value that can be stored."""
    return 2**bits - 1 if bits and 0 < bits <= 16 else int(np.iinfo(stored.dtype).max)


def _reduction(stored: Stored) -> int:
    """How many pixels of an image, along a side, become one pixel of its picture."""
    longest: int = max(stored.shape[1:])
    return max(1, -(-longest // LONGEST_SHOWN))


def _reduced(stored: Stored, step: int) -> NDArray[np.float64]:
    """Means over squares of `step` pixels; the last ones repeat the edge."""
    if step == 1:
        return stored.astype(np.float64)
    channels, height, width = stored.shape
    padded = np.pad(stored, ((0, 0), (0, -height % step), (0, -width % step)), mode="edge")
    squares = padded.reshape(channels, padded.shape[1] // step, step, padded.shape[2] // step, step)
    means: NDArray[np.float64] = squares.mean(axis=(2, 4), dtype=np.float64)
    return means


def _data_uri(shares: NDArray[np.float64]) -> str:
    """A PNG of an image (C, H, W) whose values are shares of the range; two channels are shown as their first."""
    levels = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    picture = np.moveaxis(levels, 0, -1) if levels.shape[0] == 3 else levels[0]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
