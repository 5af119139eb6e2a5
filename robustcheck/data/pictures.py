"""Images that lie in PNG, JPEG and TIFF files: headers are checked at load, pixels are decoded on demand.

A file is opened as one of these three formats whatever it is named, because Pillow hands others to external programs.
What Pillow would change on the way (16-bit colour cut to 8, signs, transparency) is refused rather than judged.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)

from robustcheck.data.decoding_work import check_work
from robustcheck.data.reading import MAX_PIXELS, check_memory, parsing
from robustcheck.data.samples import Shape
from robustcheck.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "TIFF")
_JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")  # how it begins, in a container and alone
_TIFF = (b"II", b"MM")  # how it begins, as the EXIF block in other files does
_ORIENTATION, _TURNS = ExifTags.Base.Orientation, range(2, 9)  # 1 is as it is, and Pillow leaves others alone
_FULL = 256  # below it, the 16 bits of a TIFF's colours are the lower 8 alone
_SIGNED, _WHITE_IS_ZERO = 2, 0  # of a TIFF's SampleFormat and PhotometricInterpretation


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A file whose header has been read."""

    name: str
    path: Path
    shape: Shape
    depth: int  # bits that it stores: 1, 2, 4, 8, 12 or 16
    sha256: str
    turned: bool  # its EXIF orientation asks the viewer to turn it, and decoding does not
    turning: bool  # its TIFF orientation does, and decoding turns it
    inverted: bool  # its largest value is black: Pillow inverts TIFF of 8 bits, and no others
    lowest: int = 0
    hounsfield: bool = False  # no picture says so

    def holds(self, bits: int) -> bool:
        """Whether it stores so many bits or more, or they are 8, to which it can be scaled without loss."""
        return bits <= self.depth or bits == 8

    @property
    def notes(self) -> tuple[str, ...]:
        """What is peculiar to it."""
        told = {
            "have an EXIF orientation, which is not applied": self.turned,
            "have a TIFF orientation, which is applied": self.turning,
            "are TIFF whose 0 is white, and inverted, so that larger is brighter": self.inverted,
        }
        return tuple(note for note, holds in told.items() if holds)

    def levels(self, zero: int, bits: int) -> NDArray[Any]:  # noqa: ARG002 - it stores nothing below 0
        """Its pixels (C, H, W), dark to bright; the largest level of so many bits is black if it is inverted.

        What stores fewer than 8 bits is scaled if there are more, so that white is white.

        Raises:
            DataError: it cannot be decoded, or changed since it was loaded.
        """
        with _opened(self.path, self.name) as (sha256, opened):
            if sha256 != self.sha256:
                raise DataError(f"{self.name}: the file has changed since it was loaded")
            stored = _decoded(opened, self.shape[0], self.depth)
        if self.depth < bits:
            return stored * _step(self.depth)
        return (1 << bits) - 1 - stored.astype(np.int64) if self.inverted else stored


def open_picture(name: str, path: Path) -> Picture:
    """Read a file's header.

    Raises:
        DataError: it is no image that can be judged as it is stored.
    """
    with _opened(path, name) as (sha256, opened):
        channels, depth = _layout(opened, name)
        tags: Mapping[int, Any] = opened.tag_v2 if isinstance(opened, TiffImageFile) else {}
        return Picture(
            name=name,
            path=path,
            shape=(channels, opened.height, opened.width),
            depth=depth,
            sha256=sha256,
            turned=_turned(opened),
            turning=tags.get(_ORIENTATION) in _TURNS,
            inverted=opened.mode.startswith("I") and tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO,
        )


def channels_of(name: str, path: Path) -> int:
    """How many channels a file has, by its header; nothing else is read.

    Raises:
        DataError: it is no image that can be judged as it is stored.
    """
    with _opened(path, name, digested=False) as (_, opened):
        return _layout(opened, name)[0]


@contextmanager
def _opened(path: Path, name: str, *, digested: bool = True) -> Iterator[tuple[str, Image.Image]]:
    """A file's digest, if it is wanted, and its image, opened but not decoded."""
    with parsing(name), whole_files_only(), path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest() if digested else ""
        file.seek(0)
        begin = file.read(8)
        tiff = begin[:2] in _TIFF
        file.seek(0)
        try:
            with _exif_left_alone():
                if tiff:
                    warnings.filterwarnings("error", message="Tag data larger than file")  # of each of its tags
                opened = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            if begin.startswith(_JPEG_2000):
                raise DataError(f"{name} is JPEG 2000, whatever its name says: store it as PNG or TIFF") from None
            raise DataError(f"{name} is not a PNG, JPEG or TIFF image, or its header is damaged") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise DataError(f"{name} claims more than {MAX_PIXELS} pixels, which is the limit") from None
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise DataError(f"{name} claims {opened.width} x {opened.height} pixels; {MAX_PIXELS} is the limit")
            if isinstance(opened, TiffImageFile):
                _check_tile(opened, name)
            if opened.format == "JPEG" and digested:
                check_memory(2 * os.fstat(file.fileno()).st_size, name)
                file.seek(0)
                check_work(file.read(), name)
            yield sha256, opened


@contextmanager
def whole_files_only() -> Iterator[None]:
    """Have Pillow refuse files that are cut short, also where the user's code has told it to fill them up."""
    told, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = told


def _check_tile(opened: TiffImageFile, name: str) -> None:
    """Whether one tile can be unpacked: libtiff takes the memory for the whole of it, however small the image is."""
    width, height = (opened.tag_v2.get(tag, 0) for tag in (TILEWIDTH, TILELENGTH))
    if not isinstance(width, int) or not isinstance(height, int):
        raise DataError(f"{name}: the size of its tiles is not a whole number: the file is damaged or forged")
    if width * height > MAX_PIXELS:
        raise DataError(f"{name} has tiles of {width} x {height} pixels; {MAX_PIXELS} is the limit")


@contextmanager
def _exif_left_alone() -> Iterator[None]:
    """Keep Pillow, which reads a JPEG's EXIF block on the way, from warning of a damaged one: it decides no pixel."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
        yield


def _layout(opened: Image.Image, name: str) -> tuple[int, int]:
    """Channels and bits of an image whose header has been read."""
    mode, bits = opened.mode, _bits(opened)
    if opened.format == "MPO":
        raise DataError(f"{name} holds several pictures (MPO, as phones write them): save the first alone, as JPEG")
    if getattr(opened, "is_animated", False):
        raise DataError(f"{name} holds several frames: store each as a file of its own")
    if "transparency" in opened.info or mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        raise DataError(f"{name} has transparency (mode {mode}): store it without, as grey or RGB")
    if mode.startswith("I"):
        return 1, min(bits, 16)
    if mode not in ("1", "L", "P", "RGB"):
        raise DataError(f"{name} is of mode {mode}: store it as grey of 8 or 16 bits, or as RGB")
    if mode == "P" and isinstance(opened, TiffImageFile) and 0 < max(opened.tag_v2.get(COLORMAP, (0,))) < _FULL:
        raise DataError(
            f"{name} has a colour map of 8 bits where TIFF has 16, which Pillow reads as black: store it as grey or RGB"
        )
    if mode == "P":
        return 1 if _grey_palette(opened) else 3, 8  # the palette's colours have 8 bits, however few their numbers have
    if mode == "L" and isinstance(opened, TiffImageFile) and _SIGNED in opened.tag_v2.get(SAMPLEFORMAT, ()):
        raise DataError(
            f"{name} is grey of signed 8 bits, which Pillow reads as unsigned: store it as unsigned, or use .npz"
        )
    if bits > 8:
        raise DataError(
            f"{name} is colour with 16 bits per channel, which Pillow cuts to 8: store it as 8-bit RGB, or use .npz"
        )
    return 3 if mode == "RGB" else 1, bits


def _bits(opened: Image.Image) -> int:
    """How many bits a channel has in the file."""
    if isinstance(opened, TiffImageFile):  # by its tags: how Pillow unpacks the planes of a colour hides it
        return int(opened.tag_v2.get(BITSPERSAMPLE, (1,))[0])  # Pillow reads none whose channels differ
    if opened.mode == "1":
        return 1
    tiles = getattr(opened, "tile", [])
    raw = re.search(r";(\d+)", str(tiles[0].args)) if tiles else None  # how Pillow will unpack it, such as "I;16B"
    return int(raw[1]) if raw else 8


def _turned(opened: Image.Image) -> bool:
    """Whether it asks the viewer for a turn. Pillow turns TIFF itself; `opened.getexif` would decode a whole PNG."""
    exif = Image.Exif()
    with _exif_left_alone():
        try:
            exif.load(opened.info.get("exif", b""))
        except (SyntaxError, struct.error):  # what Pillow raises for what is no EXIF block
            return False
        return bool(exif.get(_ORIENTATION, 1) != 1)


def _grey_palette(opened: Image.Image) -> bool:
    colours = np.array(opened.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _step(depth: int) -> int:
    """How many levels of 8 bits one level of 1, 2, 4 or 8 bits is."""
    return 255 // ((1 << depth) - 1)


def _decoded(opened: Image.Image, channels: int, depth: int) -> NDArray[Any]:
    """The pixels (C, H, W), in whatever integers Pillow gives, of so many bits."""
    if opened.mode in ("1", "P"):
        opened = opened.convert("L" if channels == 1 else "RGB")
    array = np.asarray(opened)
    if depth < 8:  # Pillow scales them to 8
        array = array // _step(depth)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
