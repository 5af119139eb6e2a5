"""CT: what is stored is what is judged, in Hounsfield units, in one range, and padding where nothing was measured."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian
from scans import CT, open_scan, refusal_of

from robustcheck.data.files import open_files
from robustcheck.data.samples import PixelSpace
from robustcheck.errors import DataError

HU = np.array([[-1024, 0, 40], [1000, 3071, -500]])


def test_a_ct_is_in_hounsfield_units(scan):
    images = open_scan(scan((HU + 1024).astype(np.uint16), bits=12, **CT))
    assert (str(images.space), images.shape_of(0)) == ("-1024 to 3071 HU", (1, 2, 3))
    image = images.image(0)
    assert image.dtype == np.uint16
    assert image.flags["C_CONTIGUOUS"]
    assert (image.astype(int) - 1024 == HU[None]).all()
    assert not images.notes


def test_signed_and_unsigned_scanners_meet_in_the_part_that_both_store(scan):
    one = scan((HU + 1024).astype(np.uint16), bits=12, **CT)
    other = scan((HU + 1024).astype(np.int16), name="b.dcm", **CT)
    with pytest.raises(
        DataError, match=r"b\.dcm stores -33792 to 31743 HU and a\.dcm -1024 to 3071 HU.*such as 12 and -1024"
    ):
        open_files([("a.dcm", one), ("b.dcm", other)])
    images = open_files([("a.dcm", one), ("b.dcm", other)], bits=12, hounsfield=-1024)
    assert images.space == PixelSpace(bits=12, zero=-1024, hounsfield=-1024)
    assert (images.image(0) == images.image(1)).all()
    assert (images.image(0) == HU + 1024).all()


def test_scanners_that_begin_at_different_units_meet_in_what_the_message_names(scan):
    stored = np.array([[0, 24, 4095]], np.uint16)
    named = [("a.dcm", scan(stored, bits=12, **CT | {"RescaleIntercept": -1000}))]
    named.append(("b.dcm", scan(stored[:, 1:], name="b.dcm", bits=12, **CT)))
    with pytest.raises(DataError) as caught:
        open_files(named)
    assert str(caught.value) == (
        "b.dcm stores -1024 to 3071 HU and a.dcm -1000 to 3095 HU: a budget means the same only within one pixel "
        "space; to have one range of all of them judged, set both data.bits and data.hounsfield, such as 13 and -1024"
    )
    images = open_files(named, bits=13, hounsfield=-1024)
    assert [images.image(index).tolist() for index in range(2)] == [[[[24, 48, 4119]]], [[[24, 4095]]]]
    assert not images.notes
    fewer = open_files(named, bits=12, hounsfield=-1000)
    assert fewer.image(1).tolist() == [[[0, 4071]]]
    assert open_files(named, bits=12, hounsfield=-1024).image(1).tolist() == [[[24, 4095]]]
    with pytest.raises(DataError, match=r"a\.dcm holds values from -1000 to 3095; with 12 bits, -1024 to 3071 HU are"):
        open_files(named, bits=12, hounsfield=-1024).image(0)
    with pytest.raises(DataError, match=r"^b.dcm stores .*, but cannot hold -1025 to .*\na.dcm stores .*, but cannot"):
        open_files(named, bits=12, hounsfield=-1025)


def test_what_a_message_names_fits_a_scanner_that_begins_elsewhere(scan):
    path = scan(np.zeros((2, 2), np.uint16), bits=12, **CT | {"RescaleIntercept": -1000})
    assert "set both data.bits and data.hounsfield, such as 12 and -1000" in refusal_of(path, bits=11)


def test_a_part_that_a_ct_does_not_store_is_refused(scan):
    path = scan((HU + 1024).astype(np.uint16), bits=12, **CT)
    for options in ({"hounsfield": -1025}, {"hounsfield": 0}, {"hounsfield": -1024, "bits": 13}):
        assert "a.dcm stores -1024 to 3071 HU, but cannot hold " in refusal_of(path, **{"bits": 12, **options})
    assert open_scan(path, hounsfield=-1024).space == open_scan(path, bits=12).space == open_scan(path).space
    for options in ({"bits": 11}, {"bits": 16}, {"hounsfield": -1000}):
        assert "judged, set both data.bits and data.hounsfield, such as 12 and -1024" in refusal_of(path, **options)
    assert "holds values from -1024 to 3071; with 11 bits, -1000 to 1047 HU are allowed: check data.bits" in refusal_of(
        path, bits=11, hounsfield=-1000
    )


def test_files_whose_units_need_more_than_16_bits_together_can_be_judged_in_one_range(scan):
    named = []
    for name, intercept in (("a.dcm", -1024), ("b.dcm", -33792)):
        stored = np.array([[-intercept, 7 - intercept]], np.uint16)
        named.append((name, scan(stored, name=name, **CT | {"RescaleIntercept": intercept})))
    images = open_files(named, bits=16, hounsfield=-1024)
    assert [images.image(index).tolist() for index in range(2)] == [[[[1024, 1031]]]] * 2


def test_padding_is_cut_off_and_nothing_else_is(scan):
    padded = np.array([[-2000, 24, 1024]], np.int16)
    part = {"bits": 12, "hounsfield": -1024}
    assert open_scan(scan(padded, **CT, PixelPaddingValue=-2000), **part).image(0).tolist() == [[[0, 24, 1024]]]
    ranged = scan(padded - 3, **CT, PixelPaddingValue=-2010, PixelPaddingRangeLimit=-2000)
    assert open_scan(ranged, **part).image(0).tolist() == [[[0, 21, 1021]]]
    assert "holds values from -3024 to 0; with 12 bits, -1024 to 3071 HU" in refusal_of(scan(padded, **CT), **part)


def test_padding_above_is_the_lowest_level_as_well(scan):
    padded = scan(np.array([[0, 1024, 4095, 65535]], np.uint16), **CT, PixelPaddingValue=65535)
    images = open_scan(padded, bits=12, hounsfield=-1024)
    assert images.image(0).tolist() == [[[0, 1024, 4095, 0]]]
    assert images.notes == (
        "1 files, first a.dcm, have a padding value, which is read as the lowest level if it lies outside",
    )
    assert "holds values from -1024 to 64510; with 12 bits" in refusal_of(
        scan(np.array([[0, 65534]], np.uint16), **CT, PixelPaddingValue=65535), bits=12, hounsfield=-1024
    )


@pytest.mark.parametrize("limit", [None, 63534])
def test_padding_of_signed_pixels_is_found_where_it_is_written_without_its_sign(scan, limit):
    stored = np.array([[-2000, 24, 1024]], np.int16)
    path = scan(stored, **CT)
    data = pydicom.dcmread(path)
    data.add_new("PixelPaddingValue", "US", 63536)
    if limit:
        data.add_new("PixelPaddingRangeLimit", "US", limit)
    data.save_as(path)
    assert open_scan(path, bits=12, hounsfield=-1024).image(0).tolist() == [[[0, 24, 1024]]]


@pytest.mark.parametrize(
    ("signed", "value", "limit", "pixels", "shown"),
    [
        (False, 63536, None, [2096, 1048], None),  # not what 12 bits are left of it, which is bone
        (True, -32768, -1025, [-2000, 24], [0, 1048]),
    ],
)
def test_padding_that_12_bits_cannot_hold(scan, signed, value, limit, pixels, shown):
    kind = np.int16 if signed else np.uint16
    path = scan(np.array([pixels], kind), bits=12, **CT | {"RescaleIntercept": 0 if signed else -1024})
    data = pydicom.dcmread(path)
    data.add_new("PixelPaddingValue", "SS" if signed else "US", value)
    if limit:
        data.add_new("PixelPaddingRangeLimit", "SS", limit)
    data.save_as(path)
    if shown is None:
        assert "holds values from 24 to 1072" in refusal_of(path, bits=11, hounsfield=-1024)
    else:
        assert open_scan(path, bits=11, hounsfield=-1024).image(0).tolist() == [[shown]]


def test_padding_is_read_with_its_sign_where_headers_have_no_types(scan):
    """In implicit VR a padding value is signed if pixels are, which another element says."""
    stored = np.array([[-2000, 24, 1024]], np.int16)
    path = scan(stored, TransferSyntaxUID=ImplicitVRLittleEndian, **CT, PixelPaddingValue=-2000)
    images = open_scan(path, bits=12, hounsfield=-1024)
    assert images.image(0).tolist() == [[[0, 24, 1024]]]
    assert images.notes == (
        "1 files, first a.dcm, have a padding value, which is read as the lowest level if it lies outside",
    )
