"""Images that lie in DICOM files of one frame: headers are checked at load, pixels are decoded on demand.

What a file stores is its pixel space: of a CT whole Hounsfield units, of anything else the stored values, from dark to
bright. Windows and lookup tables are for viewers and change no pixel. Of a header nothing is read but what is named
here, and none of it reaches a report but what pixels mean.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcheck.data.reading import MAX_PIXELS, check_memory, parsing
from robustcheck.data.samples import Shape
from robustcheck.errors import DataError

SUFFIXES = (".dcm", ".dicom", ".ima")
_PREAMBLE, _MAGIC = 128, b"DICM"
_DEFLATED, _RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_DECODERS = ("pydicom", "pillow", "gdcm", "pyjpegls", "pylibjpeg")  # in turn, whatever else is installed
_TAGS = [
    "Modality", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept",
    "RescaleSlope", "RescaleType", "ModalityLUTSequence",
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
    rescaled: bool  # its header maps values to others, which is not applied
    padding: tuple[int, int] | None  # of a CT: stored values, both included, that stand where nothing was measured

    @property
    def lowest(self) -> int:
        """What it can store: in Hounsfield units, or as stored."""
        return (-(1 << self.depth - 1) if self.signed else 0) + (self.intercept or 0)

    @property
    def hounsfield(self) -> bool:
        """Whether its pixels are Hounsfield units."""
        return self.intercept is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is peculiar to it."""
        told = ["are MONOCHROME1 and inverted, so that larger is brighter"] if self.inverted else []
        return (*told, *(["rescale their values, which is not applied: pixels are as stored"] if self.rescaled else []))

    def levels(self, zero: int) -> NDArray[Any]:
        """(C, H, W), counted from `zero`, dark to bright; where nothing was measured, nothing lies below.

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
            levels = (1 << self.depth) - 1 - levels
        if self.padding is not None:
            blank = (stored >= self.padding[0]) & (stored <= self.padding[1])
            levels[blank] = levels[blank].clip(min=0)
        return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)


def is_dicom(path: Path) -> bool:
    """Whether a file is named as DICOM, or begins as it does: scanners name files by numbers, or without an ending."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
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
        header = _header(file, path, name)
        samples = header.get("SamplesPerPixel", 1)
        colours = header.get("PhotometricInterpretation", "")
        if samples != (3 if colours in _COLOUR else 1) or colours not in ("MONOCHROME1", "MONOCHROME2", *_COLOUR):
            raise DataError(f"{name} is {colours or 'of no photometric interpretation'}: store it as grey or as RGB")
        frames = int(header.get("NumberOfFrames") or 1)
        if frames != 1:
            raise DataError(f"{name} holds {frames} frames: store each as a file of its own")
        depth = _depth(header, name, samples)
        height, width = header.Rows, header.Columns
        if not 0 < height * width <= MAX_PIXELS:
            raise DataError(f"{name} claims {width} x {height} pixels; {MAX_PIXELS} is the limit")
        intercept = _intercept(header) if colours == "MONOCHROME2" else None
        mapped = (header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0)) != (1, 0)
        return Scan(
            name=name,
            path=path,
            shape=(samples, height, width),
            depth=depth,
            sha256=sha256,
            signed=bool(header.get("PixelRepresentation", 0)),
            inverted=colours == "MONOCHROME1",
            intercept=intercept,
            rescaled=intercept is None and (mapped or "ModalityLUTSequence" in header),
            padding=None if intercept is None else _padding(header),
        )


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BufferedReader]:
    """The file; whatever pydicom raises becomes a sentence, and what it warns of is left to whoever made the file."""
    with parsing(name), path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield file


def _header(file: BufferedReader, path: Path, name: str) -> Any:
    """What `_TAGS` names, of a file that is at its beginning."""
    import pydicom  # a third of a second, for those who need it
    from pydicom.errors import InvalidDicomError

    if file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] != _MAGIC:
        raise DataError(f"{name} is no DICOM file: it does not begin as one, with 128 bytes and DICM")
    file.seek(0)
    syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", "")
    if syntax == _DEFLATED:  # it would be inflated whole, to whatever size
        raise DataError(f"{name} is deflated as a whole: store it uncompressed, or compress its pixels alone")
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
    except InvalidDicomError as error:
        raise DataError(f"{name} is no DICOM file: {error}") from None
    for tag in ("Rows", "Columns", "BitsAllocated", "BitsStored"):
        if not isinstance(header.get(tag), int):
            raise DataError(f"{name} holds no image: its header has no {tag}")
    _decoder(syntax, name)
    return header


def _depth(header: Any, name: str, samples: int) -> int:
    allocated, stored = header.BitsAllocated, header.BitsStored
    if allocated not in (8, 16) or not 1 <= stored <= allocated or header.get("HighBit", stored - 1) != stored - 1:
        raise DataError(
            f"{name} stores {stored} of {allocated} bits, the highest of them number {header.get('HighBit')}: store it "
            "as 1 to 8 bits of 8, or 1 to 16 of 16, the lowest ones"
        )
    if samples == 3 and (stored != 8 or header.get("PixelRepresentation", 0)):
        raise DataError(f"{name} is colour of {stored} bits a channel: store it as RGB of 8")
    return int(stored)


def _intercept(header: Any) -> int | None:
    """Hounsfield units of a stored 0, where one stored level is one of them."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    if header.get("Modality") != "CT" or (header.get("RescaleType") or "HU") != "HU" or slope != 1:
        return None
    return int(intercept) if intercept is not None and intercept == int(intercept) else None


def _padding(header: Any) -> tuple[int, int] | None:
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = header.get("PixelPaddingRangeLimit")
    return (min(value, limit), max(value, limit)) if isinstance(limit, int) else (value, value)


def _decoder(syntax: str, name: str) -> Any:
    """What decodes a transfer syntax here."""
    from pydicom.pixels import get_decoder  # type: ignore[attr-defined]
    from pydicom.uid import UID

    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError:
        raise DataError(f"{name} is in {UID(syntax).name or 'no transfer syntax'}; store it uncompressed") from None
    if not decoder.is_available:
        raise DataError(
            f"{name} is compressed as {UID(syntax).name}, which needs another package: "
            "pip install 'pytest-robustcheck[dicom]', or store it uncompressed"
        )
    return decoder


def _values(data: Any, syntax: str, name: str) -> NDArray[Any]:
    """The first frame by the first decoder that takes it."""
    decoder = _decoder(syntax, name)
    if not decoder.is_encapsulated:
        return np.asarray(decoder.as_array(data, index=0)[0])
    reasons = []
    for plugin in _DECODERS:
        if plugin in decoder.available_plugins:
            try:
                return np.asarray(decoder.as_array(data, index=0, decoding_plugin=plugin)[0])
            except RuntimeError as error:
                reasons.append(str(error).splitlines()[-1].strip())
    raise DataError(
        f"{name}: its pixels cannot be decoded ({'; '.join(reasons):.200}); store it uncompressed, or get another "
        "decoder: pip install 'pytest-robustcheck[dicom]'"
    )


def _decoded(file: BufferedReader, scan: Scan) -> NDArray[np.int64]:
    """The stored values (H, W) or (H, W, 3); bits above those that are stored, such as overlays, are left out."""
    import pydicom

    check_memory(2 * scan.path.stat().st_size, scan.name)
    data = pydicom.dcmread(file)
    syntax = data.file_meta.TransferSyntaxUID
    channels, height, width = scan.shape
    most = 2 * channels * height * width * (data.BitsAllocated // 8) + 65536
    if syntax == _RLE and len(data.PixelData) > most:  # two bytes of it stand for up to 128
        raise DataError(f"{scan.name}: its pixels take {len(data.PixelData)} bytes, more than they would uncompressed")
    values = _values(data, syntax, scan.name)
    if values.shape != ((height, width) if channels == 1 else (height, width, channels)):
        raise DataError(f"{scan.name}: its header says {scan.shape}, and it decodes to {values.shape}")
    stored: NDArray[np.int64] = values.astype(np.int64) & (1 << scan.depth) - 1
    if scan.signed:
        stored -= (stored >> scan.depth - 1) << scan.depth
    return stored
