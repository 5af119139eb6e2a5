"""The samples that a candidate is judged on, and what each source gives to build them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustcheck.results import DataInfo

Indexes = NDArray[np.int64]
Stored = NDArray[np.unsignedinteger[Any]]  # uint8, or uint16 where more than eight bits are stored
Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True, kw_only=True)
class PixelSpace:
    """What stored levels are: 0 to 2**bits - 1, dark to bright."""

    bits: int
    zero: int = 0  # the value in a file that level 0 stands for
    hounsfield: int | None = None  # of level 0, each level being one unit; None: the images are no CT

    def __str__(self) -> str:
        if self.hounsfield is not None:
            return f"{self.hounsfield} to {self.hounsfield + (1 << self.bits) - 1} HU"
        return self.values

    @property
    def values(self) -> str:
        """The values that a file may hold, as a message says them."""
        return f"{self.zero} to {self.zero + (1 << self.bits) - 1}"

    def advice(self, lowest: int) -> str:
        """What to do about values of CT that begin below level 0; "" if they do not."""
        if self.hounsfield is None or lowest >= self.zero:
            return ""
        sign = "plus" if self.hounsfield < 0 else "minus"
        return f"; {self.zero} stands for {self.hounsfield} HU: store Hounsfield units {sign} {abs(self.hounsfield)}"


class Images(Protocol):
    """Images in their pixel space, in memory or in files."""

    @property
    def space(self) -> PixelSpace:
        """What their levels are."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of the report should know about how they are stored."""

    @property
    def late_notes(self) -> tuple[str, ...]:
        """Notes that are known only once every image was decoded."""

    def __len__(self) -> int: ...

    def shape_of(self, index: int) -> Shape:
        """The shape of an image (C, H, W), without decoding it."""

    def image(self, index: int) -> Stored:
        """The stored integers (C, H, W) in an array of the caller's own: never scaled, never shared."""

    def content_sha256(self, index: int) -> str:
        """Digest of what is stored: a file's bytes; else the pixels', C order, little-endian."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a policy says about its samples, wherever they come from."""

    labels: Sequence[str]
    multilabel: bool  # several of the labels may be present, or none
    split: str | None = None
    bits: int | None = None
    hounsfield: int | None = None  # of level 0, if the images are CT
    columns: Sequence[str] = ()  # what each sample has to have besides image and label


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """Every sample of a source's split, before a subset is taken and before any file is opened."""

    names: Sequence[str]  # stable in the source: random draws derive from them
    labels: Indexes  # (N,)
    take: Callable[[Indexes], Images]  # the images of these samples, checked
    split: str | None  # None where the source has no splits
    by_number: bool = False  # the source calls labels by their places in the policy's, from 0, and not by names
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    not_read: Sequence[str] = ()  # what it holds that may be samples and is not read, and how much of it
    without: Mapping[str, str] = field(default_factory=dict)  # why labels have no sample, where the source shows it
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)  # those asked for: a text for each sample


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Named, labelled images in their pixel space, in source order.

    Attributes:
        names: of each sample in its source, such as `test/17` or `normal/img3.png`; the same in every subset.
        labels: (N,) int64, true readings: indexes into the policy's labels, or of several the sum of 2**k; read-only.
        contents: (N,) int64, which samples store the same: numbers from 0 in order of first appearance; read-only.
        images: the images; `image` and `shape_of` are short for its methods.
        info: for the report.
        groups: (N,) int64, which samples belong together: numbers from 0 in order of first appearance; read-only. None
            where the policy names no column that says so.
        group_names: (N,) what the source calls the group of each; None without groups.
        subgroups: the columns that the policy names, in its order, with the value of each sample (N,).
        absent: labels that no sample of the whole source bears, of which these may be a subset.
        not_read: what the source holds that may be samples and is not read, a sentence for each kind.
    """

    names: tuple[str, ...]
    labels: Indexes
    contents: Indexes
    images: Images
    info: DataInfo
    groups: Indexes | None = None
    group_names: tuple[str, ...] | None = None
    subgroups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    not_read: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def bits(self) -> int:
        """Stored depth: values are 0 to 2**bits - 1."""
        return self.images.space.bits

    @property
    def hounsfield(self) -> int | None:
        """Hounsfield units of level 0, each level being one; None if images are no CT."""
        return self.images.space.hounsfield

    @property
    def zero(self) -> int:
        """The value that level 0 stands for; below 0 where files store signed values."""
        return self.images.space.zero

    @property
    def maximum(self) -> int:
        """The largest value that can be stored."""
        return (1 << self.bits) - 1

    def image(self, index: int) -> Stored:
        """The stored integers (C, H, W), uint8 or uint16; files are decoded now, and the array is the caller's own.

        Raises:
            DataError: the file cannot be decoded, changed since it was loaded, or holds values that `bits` rules out.
        """
        return self.images.image(index)

    def shape_of(self, index: int) -> Shape:
        """(C, H, W) of one image, without decoding it."""
        return self.images.shape_of(index)
