"""Images that lie in DICOM files of one frame: headers are checked at load, pixels are decoded on demand.

What a file stores is its pixel space: for CT whole Hounsfield units, else the stored values, from dark to
bright. Windows and lookup tables are for viewers and change no pixel. Only what is named here is read from a
header, and only what pixels mean reaches a report.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcheck.data.codestream import size_of, turned_to_rgb, unpacked_length
from robustcheck.data.decoding_work import check_work
from robustcheck.data.pictures import whole_files_only
from robustcheck.data.reading import MAX_PIXELS, check_memory, parsing
from robustcheck.data.samples import Shape
from robustcheck.errors import DataError
from robustcheck.words import shown

SUFFIXES = (".dcm", ".dicom", ".ima")
_PREAMBLE, _MAGIC = 128, b"DICM"
_DEFLATED, _RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_DECODERS = ("pydicom", "pillow", "gdcm", "pyjpegls", "pylibjpeg")  # in turn, whatever else is installed
_MOST_READS = 200_000
_LONGEST = 64  # bytes of a value of `_TAGS`
_AS_STORED = (1.0, 0.0)  # a slope and an intercept that change nothing
_RLE_SLACK = 64  # segments are padded
_OF_PIXELS = ["PixelData", "PlanarConfiguration"]  # one frame needs no table of offsets
_TABLE = "ModalityLUTSequence"  # which may be long; only whether there is one is asked
_TAGS = [
    "Modality", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept",
    "RescaleSlope", "RescaleType", _TABLE,
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A file whose header has been read."""

    name: str
    path: Path
    shape: Shape
    depth: int  # bits that it stores
    sha256: str
    signed: bool
    inverted: bool  # its largest value is black
    intercept: int | None  # Hounsfield units of a stored 0; None: it has none
    rescale: tuple[float, float]  # slope and intercept that its header maps values by
    table: bool  # its header maps values by a table instead
    mapped: bool  # it maps them to others, and that is not applied
    padding: tuple[int, int] | None  # of a CT: stored values, both included, that stand where nothing was measured

    def holds(self, bits: int) -> bool:
        """Whether so many bits are what it stores, or a part of them."""
        return bits <= self.depth

    @property
    def lowest(self) -> int:
        """The lowest value that it can store: in Hounsfield units, or as stored."""
        return (-(1 << self.depth - 1) if self.signed else 0) + (self.intercept or 0)

    @property
    def hounsfield(self) -> bool:
        """Whether its pixels are Hounsfield units."""
        return self.intercept is not None

    @property
    def rescaling(self) -> str:
        """How its header maps values, as a message says it."""
        slope, intercept = self.rescale
        if self.table:
            return "a table of its own"
        return f"{slope:.15g} · value {'-' if intercept < 0 else '+'} {abs(intercept):.15g}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is peculiar to it."""
        by = f" by {self.rescaling}" if self.table or self.rescale != _AS_STORED else ""
        told = {
            "are MONOCHROME1 and inverted, so that larger is brighter": self.inverted,
            f"rescale their values{by}, which is not applied: pixels are as stored": self.mapped,
            "have a padding value, which is read as the lowest level if it lies outside": self.padding is not None,
        }
        return tuple(note for note, holds in told.items() if holds)

    def levels(self, zero: int, bits: int) -> NDArray[Any]:
        """Its pixels (C, H, W), counted from `zero`, dark to bright; where nothing was measured, none lies outside.

        Args:
            zero: the value that level 0 stands for.
            bits: how many there are; the largest level is black if it is inverted.

        Raises:
            DataError: it cannot be decoded, or changed since it was loaded.
        """
        with _opened(self.path, self.name) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != self.sha256:
                raise DataError(f"{self.name}: the file has changed since it was loaded")
            file.seek(0)
            stored = _decoded(file, self)
        levels = stored + ((self.intercept or 0) - zero)
        if self.inverted:
            levels = (1 << bits) - 1 - levels
        if self.padding is not None:
            blank = (stored >= self.padding[0]) & (stored <= self.padding[1])
            levels[blank & ((levels < 0) | (levels >= 1 << bits))] = 0
        return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)

    def measured(self, levels: NDArray[Any], zero: int) -> NDArray[Any]:
        """Those of its levels, counted from `zero`, that stand where something was measured; all if nothing was."""
        if self.padding is None:
            return levels
        first, last = (value + (self.intercept or 0) - zero for value in self.padding)
        kept = levels[(levels < first) | (levels > last)]
        return kept if kept.size else levels


def is_dicom(path: Path) -> bool:
    """Whether a file is named as DICOM, or begins as it does: scanners name files by numbers, or without an ending."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():  # a pipe would not end
            return False
        with path.open("rb") as file:
            return file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
    except OSError:
        return False


def open_scan(name: str, path: Path) -> Scan:
    """Read a file's header.

    Raises:
        DataError: it is no DICOM image of one frame that can be read here.
    """
    with _opened(path, name) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        header = _header(file, name)
        samples = header.get("SamplesPerPixel", 1)
        colours = header.get("PhotometricInterpretation", "")
        if samples != (3 if colours in _COLOUR else 1) or colours not in ("MONOCHROME1", "MONOCHROME2", *_COLOUR):
            found = shown(colours) if colours else "of no photometric interpretation"
            raise DataError(f"{name} is {found}: store it as grey or as RGB")
        frames = int(header.get("NumberOfFrames") or 1)
        if frames != 1:
            raise DataError(f"{name} holds {frames} frames: store each as a file of its own")
        depth = _depth(header, name, samples)
        height, width = header.Rows, header.Columns
        if height < 1 or width < 1:
            raise DataError(f"{name} holds no image: its header has {height} Rows and {width} Columns")
        if height * width > MAX_PIXELS:
            raise DataError(f"{name} claims {width} x {height} pixels; {MAX_PIXELS} is the limit")
        rescale = _rescale(header, name)
        intercept = _intercept(header) if colours == "MONOCHROME2" else None
        return Scan(
            name=name,
            path=path,
            shape=(samples, height, width),
            depth=depth,
            sha256=sha256,
            signed=bool(header.get("PixelRepresentation", 0)),
            inverted=colours == "MONOCHROME1",
            intercept=intercept,
            rescale=rescale,
            table=intercept is None and _TABLE in header,
            mapped=intercept is None and (rescale != _AS_STORED or _TABLE in header),
            padding=None if intercept is None else _padding(header),
        )


class _BoundedReader(BufferedReader):
    """A file that can be read from only so often: parts of an endless header take more memory than they have bytes."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as from any file.

        Raises:
            ValueError: it was read from too often.
        """
        self._reads += 1
        if self._reads > _MOST_READS:
            raise ValueError(f"it has more than {_MOST_READS} parts, more than an image of one frame needs")
        return super().read(size)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BufferedReader]:
    """The file; whatever pydicom raises becomes a sentence, and what it warns of is left to whoever made the file."""
    with parsing(name), whole_files_only(), _BoundedReader(FileIO(path)) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield file


def _header(file: BufferedReader, name: str) -> Any:
    """The elements that `_TAGS` names, of a file that is at its beginning."""
    if file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] != _MAGIC:
        raise DataError(
            f"{name} is not a DICOM file: it does not begin with 128 bytes and DICM; write it with its file header "
            "(pydicom: save_as(…, enforce_file_format=True))"
        )
    header, syntax = _read(file, name, _TAGS, stop_before_pixels=True)
    for tag in ("Rows", "Columns", "BitsAllocated", "BitsStored"):
        if not isinstance(header.get(tag), int):
            raise DataError(f"{name} holds no image: its header has no {tag}")
    _decoder(syntax, name)
    return header


def _read(file: BufferedReader, name: str, tags: list[str], *, stop_before_pixels: bool) -> tuple[Any, str]:
    """The elements of a file that `tags` names, and its transfer syntax."""
    import pydicom  # a third of a second, for those who need it
    from pydicom.filereader import _read_file_meta_info

    file.seek(_PREAMBLE + len(_MAGIC))
    syntax = str(_read_file_meta_info(file).get("TransferSyntaxUID", ""))
    if syntax == _DEFLATED:  # it would be inflated whole, to whatever size
        raise DataError(f"{name} is deflated as a whole: store it uncompressed, or compress only its pixels")
    file.seek(0)
    data = pydicom.dcmread(file, stop_before_pixels=stop_before_pixels, specific_tags=tags)
    for tag in set(_TAGS) - {
        _TABLE
    }:  # before they are looked at: a number of a hundred megabytes is a list of millions
        raw = data.get_item(tag) if tag in data else None
        if isinstance(value := getattr(raw, "value", None), bytes) and len(value) > _LONGEST:
            raise DataError(f"{name}: its {tag} has {len(value)} bytes, more than it can need")
    return data, syntax


def _depth(header: Any, name: str, samples: int) -> int:
    """How many bits a value stores, in a layout that can be read here."""
    allocated, stored = header.BitsAllocated, header.BitsStored
    if allocated not in (8, 16) or not 1 <= stored <= allocated or header.get("HighBit", stored - 1) != stored - 1:
        raise DataError(
            f"{name} stores {stored} of {allocated} bits, the highest of which is bit {header.get('HighBit')}: store "
            "it as 1 to 8 bits of 8, or 1 to 16 of 16, the lowest ones"
        )
    if samples == 3 and (stored != 8 or header.get("PixelRepresentation", 0)):
        raise DataError(f"{name} is colour with {stored} bits per channel: store it as RGB with 8")
    return int(stored)


def _intercept(header: Any) -> int | None:
    """Hounsfield units of a stored 0, where one stored level is one of them."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    if header.get("Modality") != "CT" or (header.get("RescaleType") or "HU") != "HU" or slope != 1:
        return None
    return int(intercept) if intercept is not None and intercept == int(intercept) else None


def _rescale(header: Any, name: str) -> tuple[float, float]:
    """Slope and intercept; one that is missing or empty changes nothing."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    found = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    if not all(map(isfinite, found)):
        raise DataError(f"{name} rescales its values by {found[0]:g} and {found[1]:g}, which are no numbers")
    return found


def _padding(header: Any) -> tuple[int, int] | None:
    """The first and last stored value that mean that nothing was measured; None if none can be stored.

    Some scanners write that value for signed pixels without its sign.
    """
    value, limit = header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    signed, depth, allocated = bool(header.get("PixelRepresentation", 0)), header.BitsStored, header.BitsAllocated
    ends = [end & (1 << allocated) - 1 for end in (value, limit if isinstance(limit, int) else value)]
    if signed:
        ends = [end - (end >> allocated - 1 << allocated) for end in ends]
    lowest = -(1 << depth - 1) if signed else 0
    first, last = max(min(ends), lowest), min(max(ends), lowest + (1 << depth) - 1)
    return (first, last) if first <= last else None


def _decoder(syntax: str, name: str) -> Any:
    """What decodes a transfer syntax here."""
    from pydicom.pixels import get_decoder  # type: ignore[attr-defined]
    from pydicom.uid import UID

    called = shown(UID(syntax).name) if syntax else "no transfer syntax"
    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError:
        raise DataError(f"{name} is in {called}; store it uncompressed") from None
    if not decoder.is_available:
        packages = " or ".join(reason.partition(" - requires ")[2] for reason in decoder.missing_dependencies)
        advice = "install gdcm with pip install 'pytest-robustcheck[dicom]', or " * ("gdcm" in packages)
        raise DataError(
            f"{name} is compressed as {called}, which needs another package ({packages}); {advice}store it uncompressed"
        )
    return decoder


def _decoded(file: BufferedReader, scan: Scan) -> NDArray[np.int32]:
    """The stored values (H, W) or (H, W, 3); bits above those that are stored, such as overlays, are left out."""
    channels, height, width = scan.shape
    check_memory(2 * scan.path.stat().st_size + 16 * channels * height * width, scan.name)
    data, syntax = _read(file, scan.name, [*_TAGS, *_OF_PIXELS], stop_before_pixels=False)
    stored: NDArray[np.int32] = _values(data, syntax, scan).astype(np.int32) & (1 << scan.depth) - 1
    if scan.signed:
        stored -= (stored >> scan.depth - 1) << scan.depth
    return stored


def _values(data: Any, syntax: str, scan: Scan) -> NDArray[Any]:
    """The frame by the first decoder that takes it."""
    from pydicom.encaps import get_frame

    decoder = _decoder(syntax, scan.name)
    if not decoder.is_encapsulated:
        return np.asarray(decoder.as_array(data, index=0)[0])
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    _check_size(frame, data, syntax, scan)
    if syntax != _RLE:
        check_work(frame, scan.name)
    reasons = []
    for plugin in _DECODERS:
        if plugin in decoder.available_plugins:
            done = plugin == "pillow" and scan.shape[0] == 3 and turned_to_rgb(frame)  # pydicom would turn it once more
            try:
                return np.asarray(decoder.as_array(data, index=0, decoding_plugin=plugin, raw=done)[0])
            except RuntimeError as error:
                reasons.append(str(error).splitlines()[-1].strip())
    raise DataError(f"{scan.name}: its pixels cannot be decoded ({'; '.join(reasons):.200}); store it uncompressed")


def _check_size(frame: bytes, data: Any, syntax: str, scan: Scan) -> None:
    """Whether compressed pixels are as many as the header says: decoders would unpack however many there are."""
    channels, height, width = scan.shape
    if syntax == _RLE:
        most = channels * height * width * (data.BitsAllocated // 8)
        if unpacked_length(frame, most + _RLE_SLACK) > most + _RLE_SLACK:
            raise DataError(f"{scan.name}: its runs stand for more than the {most} bytes of its pixels")
    elif (size := size_of(frame)) != (height, width, channels):
        found = "×".join(map(str, size)) if size else "no size"
        raise DataError(
            f"{scan.name}: its header says {height}×{width}×{channels} (height × width × channels), but its "
            f"compressed image {found}"
        )
