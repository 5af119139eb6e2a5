"""DICOM: what is stored is what is judged, and what cannot be is a sentence."""

from __future__ import annotations

import hashlib
import warnings
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit
from rawpng import grey_png
from scans import CT, open_scan, refusal_of, save_scan

from robustcheck.data import dicom
from robustcheck.data.files import open_files
from robustcheck.errors import DataError
from robustcheck.models.preprocess import Preprocess
from robustcheck.policy import PreprocessSpec


@pytest.mark.parametrize(
    ("header", "rescaling"),
    [
        ({"Modality": "MR"}, "1 · value - 1024"),
        ({"RescaleSlope": 2}, "2 · value - 1024"),
        ({"RescaleIntercept": -1024.5}, "1 · value - 1024.5"),
        ({"RescaleType": "OD", "RescaleIntercept": 3}, "1 · value + 3"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "1 · value - 1024"),
    ],
)
def test_what_only_looks_like_a_ct_is_as_it_is_stored(header, rescaling, scan):
    images = open_scan(scan(np.array([[0, 7]], np.uint16), bits=12, **(CT | header)))
    assert images.space.hounsfield is None
    assert images.image(0).tolist() == ([[[4095, 4088]]] if "PhotometricInterpretation" in header else [[[0, 7]]])
    assert images.notes[-1] == (
        f"1 files, first a.dcm, rescale their values by {rescaling}, which is not applied: pixels are as stored"
    )


def test_files_whose_stored_values_mean_different_things(scan):
    stored = np.array([[0, 700]], np.uint16)
    slopes = {"a.dcm": "0.5", "b.dcm": "7.25", "c.dcm": "0.50", "d.dcm": None}
    headers = {
        name: {} if slope is None else {"RescaleSlope": slope, "RescaleIntercept": "0"}
        for name, slope in slopes.items()
    }
    named = [(name, scan(stored, name=name, Modality="PT", **header)) for name, header in headers.items()]
    with pytest.raises(DataError) as caught:
        open_files(named[:3])
    assert str(caught.value) == (
        "b.dcm maps stored values by 7.25 · value + 0 and a.dcm, like 1 other, 0.5 · value + 0: a budget means the "
        "same only within one pixel space, and rescaling is not applied; convert the files to values of one scale"
    )
    with pytest.raises(DataError, match=r"^d\.dcm maps stored values by 1 · value \+ 0 and b\.dcm 7\.25 · value"):
        open_files(named[1::2], bits=12)
    assert open_files(named[::2]).notes == (
        "2 files, first a.dcm, rescale their values by 0.5 · value + 0, which is not applied: pixels are as stored",
    )


def test_a_table_that_maps_values_may_be_long_and_is_not_applied(scan):
    """It is no reason to refuse a file, but to tell files with and without one apart."""
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], np.arange(4096, dtype=np.uint16).tobytes()
    stored = np.array([[0, 4095]], np.uint16)
    mapped = ("a.dcm", scan(stored, name="a.dcm", bits=12, ModalityLUTSequence=[table]))
    plain = ("b.dcm", scan(stored, name="b.dcm", bits=12))
    images = open_files([mapped])
    assert images.image(0).tolist() == [[[0, 4095]]]
    (note,) = images.notes
    assert "rescale their values by a table of its own, which is not applied: pixels are as stored" in note
    with pytest.raises(DataError, match=r"^b.dcm maps stored values by 1 · value \+ 0 and a.dcm a table of its own: "):
        open_files([mapped, plain])


def test_signed_values_begin_at_the_lowest(scan):
    images = open_scan(scan(np.array([[-2048, 0, 2047]], np.int16), bits=12))
    assert (images.space.bits, images.image(0).tolist()) == (12, [[[0, 2048, 4095]]])
    fewer = open_scan(scan(np.array([[-128, 0, 127]], np.int16), bits=12), bits=8)
    assert fewer.image(0).tolist() == [[[0, 128, 255]]]
    assert fewer.image(0).dtype == np.uint8


def test_a_window_of_signed_scans_is_in_the_values_that_they_store(scan, load):
    scan(np.array([[-500, 0, 250, 1000, 2000]], np.int16), bits=16, name="scans/normal/a.dcm")
    samples = load("scans")
    assert (samples.info.zero, samples.info.hounsfield) == (-32768, None)
    shares = torch.from_numpy(samples.image(0).astype(np.float32))[None] / samples.maximum
    shown = Preprocess.of(PreprocessSpec(window=(0, 1000)), torch.device("cpu"), samples)(shares)
    assert shown.flatten().tolist() == pytest.approx([0, 0, 0.25, 1, 1], abs=1e-3)


def test_larger_is_brighter(scan):
    images = open_scan(scan(np.array([[0, 1, 1023]], np.uint16), bits=10, PhotometricInterpretation="MONOCHROME1"))
    assert images.image(0).tolist() == [[[1023, 1022, 0]]]
    assert images.notes == ("1 files, first a.dcm, are MONOCHROME1 and inverted, so that larger is brighter",)


def test_larger_is_brighter_in_the_part_of_the_bits_that_is_meant(scan):
    path = scan(np.array([[0, 1, 4095]], np.uint16), PhotometricInterpretation="MONOCHROME1")
    assert open_scan(path, bits=12).image(0).tolist() == [[[4095, 4094, 0]]]


@pytest.mark.parametrize(
    "header", [{}, {"Modality": "CT"}, CT | {"RescaleSlope": 2}, {"PhotometricInterpretation": "MONOCHROME1"}]
)
def test_a_policy_does_not_make_a_ct_of_what_is_none(header, scan):
    path = scan(np.zeros((2, 2), np.int16), **header)
    assert "a.dcm is not CT in Hounsfield units, by its header" in refusal_of(path, bits=12, hounsfield=-1024)


def test_bits_above_those_that_are_stored_are_no_pixels(scan):
    assert open_scan(scan(np.array([[0x1005, 0xF00F]], np.uint16), bits=12)).image(0).tolist() == [[[5, 15]]]
    signed = scan(np.array([[0x1FFF, 0x3005]], np.uint16), bits=12, PixelRepresentation=1)
    assert open_scan(signed).image(0).tolist() == [[[2047, 2053]]]


def test_colour(scan):
    stored = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    images = open_scan(scan(stored))
    assert (images.space.bits, images.shape_of(0)) == (8, (3, 2, 3))
    assert (images.image(0) == stored.transpose(2, 0, 1)).all()


RED = (200, 30, 60)
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # and then 0: as they are, 1: YCbCr


@pytest.mark.parametrize("plugin", ["pillow", "gdcm"])
@pytest.mark.parametrize(
    "marked", [JFIF, b"", ADOBE + b"\1", JFIF + ADOBE + b"\1", ADOBE + b"\0", JFIF + ADOBE + b"\0"]
)
def test_colours_of_a_jpeg_are_turned_once(scan, monkeypatch, plugin, marked):
    """Pillow's plugin turns them itself where the JPEG bears Adobe's marker, and pydicom goes by DICOM's header."""
    pytest.importorskip(plugin if plugin == "gdcm" else "PIL")
    monkeypatch.setattr(dicom, "_DECODERS", (plugin,))
    red = np.full((16, 16, 3), RED, np.uint8)
    written = BytesIO()
    Image.fromarray(red).save(written, "JPEG", quality=95, subsampling=0)
    jpeg = written.getvalue()
    assert jpeg[2:20] == JFIF
    frame = encapsulate([jpeg[:2] + marked + jpeg[20:]])
    options = {"TransferSyntaxUID": JPEGBaseline8Bit, "PhotometricInterpretation": "YBR_FULL_422", "PixelData": frame}
    image = open_scan(scan(red, **options)).image(0)
    assert np.abs(image[:, 0, 0].astype(int) - RED).max() <= 1


OWN_FILES = [  # of pydicom's tests: other people's, in ten transfer syntaxes
    "CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "ExplVR_BigEnd.dcm", "GDCMJ2K_TextGBR.dcm",
    "JPEG2000.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "MR_small.dcm", "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm", "SC_ybr_full_422_uncompressed.dcm",
    "examples_overlay.dcm", "examples_rgb_color.dcm",
]  # fmt: skip


@pytest.mark.parametrize("name", OWN_FILES)
def test_files_of_others_are_as_pydicom_reads_them(name):
    path = Path(get_testdata_file(name, download=False))
    images = open_scan(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path)
        pixels = data.pixel_array.astype(int)
    lowest = -(1 << data.BitsStored - 1) if data.PixelRepresentation else 0
    expected = pixels - lowest
    assert (images.image(0) == (expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1))).all()
    is_ct = data.get("Modality") == "CT"
    assert images.space.hounsfield == (lowest + int(data.RescaleIntercept) if is_ct else None)
    assert images.content_sha256(0) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"Rows": 0}, "holds no image: its header has 0 Rows and 2 Columns"),
        ({"RescaleSlope": "nan"}, "rescales its values by nan and 0, which are no numbers"),
        ({"RescaleIntercept": "1e400", "Modality": "CT", "RescaleSlope": 1}, "rescales its values by 1 and inf, which"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_headers_that_say_nothing_of_use(header, said, tmp_path):
    assert said in refusal_of(save_scan(tmp_path / "a.dcm", np.array([[0, 9]], np.uint8), **header))


@pytest.mark.parametrize(
    ("package", "advice"),
    [
        ("gdcm>=3.0.10", "; install gdcm with pip install 'pytest-robustcheck[dicom]', or store it uncompressed"),
        ("pylibjpeg-openjpeg>=2.0", "; store it uncompressed"),
    ],
)
def test_a_package_is_advised_where_it_helps(package, advice, scan, monkeypatch):
    lacking = SimpleNamespace(is_available=False, missing_dependencies=[f"plugin - requires {package}"])
    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda _: lacking)
    assert refusal_of(scan(np.array([[0, 9]], np.uint8))).endswith(f"which needs another package ({package}){advice}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SC_rgb_rle_16bit.dcm", "is colour with 16 bits per channel: store it as RGB with 8"),
        ("SC_rgb_rle_2frame.dcm", "holds 2 frames: store each as a file of its own"),
        ("rtdose_1frame.dcm", "stores 32 of 32 bits, the highest of which is bit 31"),
        ("examples_palette.dcm", "is 'PALETTE COLOR': store it as grey or as RGB"),
        ("image_dfl.dcm", "is deflated as a whole: store it uncompressed"),
        ("test-SR.dcm", "holds no image: its header has no Rows"),
        ("ExplVR_LitEndNoMeta.dcm", "is not a DICOM file: it does not begin with"),
        ("MR_truncated.dcm", "it cannot be read: ValueError: The number of bytes of pixel data is less than expected"),
        (
            "JPEG2000-embedded-sequence-delimiter.dcm",
            "its header says 1024×256×1 (height × width × channels), but its compressed image 1024×3722445056",
        ),
        ("JPGExtended.dcm", "for samples with 12-bit precision"),
    ],
)
def test_files_of_others_that_cannot_be_judged(name, said):
    assert said in refusal_of(Path(get_testdata_file(name, download=False)))


def test_a_missing_decoder_is_named(monkeypatch):
    path = Path(get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False))
    from pydicom.pixels import get_decoder

    decoder = get_decoder(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    monkeypatch.setattr(type(decoder), "is_available", property(lambda _self: False))
    match = r"is compressed as 'JPEG-LS Lossless .*, which needs another package \(pylibjpeg.*; store it uncompressed$"
    with pytest.raises(DataError, match=match):
        open_scan(path)


# --- among others ---------------------------------------------------------------------------------------------------


def test_folders_and_manifests_of_scans(tmp_path, scan, load):
    stored = np.full((4, 4), 100, np.uint16)
    for name in ("scans/normal/a.dcm", "scans/sick/IM000001", "scans/sick/1.2.840.5"):
        scan(stored, name=name, bits=12)
    (tmp_path / "scans/sick/notes").write_text("these are mine")
    samples = load("scans")
    assert samples.names == ("normal/a.dcm", "sick/1.2.840.5", "sick/IM000001")
    assert "1 entry that is not PNG, JPEG, TIFF or DICOM was left out: sick/notes" in samples.info.notes
    (tmp_path / "data.csv").write_text(
        "path,label\nscans/normal/a.dcm,normal\nscans/sick/IM000001,sick\nscans/sick/notes,sick\n"
    )
    with pytest.raises(
        DataError, match=r"data\.csv:4: 'scans/sick/notes': only \.png.*\.ima are read, and DICOM of any"
    ):
        load("data.csv")
    (tmp_path / "data.csv").write_text("path,label\nscans/normal/a.dcm,normal\nscans/sick/IM000001,sick\n")
    assert len(load("data.csv")) == 2


def test_files_of_another_pixel_space(tmp_path, scan):
    first = scan(np.zeros((2, 2), np.uint16), bits=12)
    cases = {
        "b.dcm stores 14 bits and a.dcm 12: ": scan(np.zeros((2, 2), np.uint16), name="b.dcm", bits=14),
        "c.dcm is of signed values, unlike a.dcm: a budget means the same": scan(
            np.zeros((2, 2), np.int16), name="c.dcm", bits=12
        ),
        "d.dcm is a CT in Hounsfield units, unlike a.dcm: a budget means": scan(
            np.zeros((2, 2), np.uint16), name="d.dcm", bits=12, **CT
        ),
        "e.dcm has 3 channels": scan(np.zeros((2, 2, 3), np.uint8), name="e.dcm"),
    }
    for said, path in cases.items():
        with pytest.raises(DataError, match=said):
            open_files([("a.dcm", first), (path.name, path)])
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "f.png")
    with pytest.raises(DataError, match=r"f\.png stores 8 bits and a\.dcm 12"):
        open_files([("a.dcm", first), ("f.png", tmp_path / "f.png")])


def test_scans_of_ten_and_twelve_bits_are_never_scaled_to_eight(scan):
    named = []
    for name, bits in (("a.dcm", 12), ("b.dcm", 10), ("c.dcm", 12), ("d.dcm", 10), ("e.dcm", 10)):
        named.append((name, scan(np.array([[0, 1023]], np.uint16), name=name, bits=bits)))
    with pytest.raises(DataError) as caught:
        open_files(named)
    assert str(caught.value) == (
        "a.dcm, like 1 other, stores 12 bits and b.dcm, like 2 others, 10: a budget means the same only within one "
        "pixel space; each is judged as it is stored: convert the files to one depth, give each depth a policy of its "
        "own, or set data.bits: 10 if none of them uses more"
    )
    images = open_files(named, bits=10)
    assert [images.image(index).tolist() for index in range(5)] == [[[[0, 1023]]]] * 5
    with pytest.raises(DataError) as caught:
        open_files(named, bits=12)
    assert str(caught.value) == "b.dcm, like 2 others, stores 10 bits and cannot hold the 12 that data.bits asks for"


@pytest.mark.parametrize("bits", [4, 8])
def test_a_picture_of_few_bits_and_a_scan_of_eight_meet_where_the_advice_leads(tmp_path, scan, bits):
    path = scan(np.array([[0, 1, 15]], np.uint8), bits=bits)
    (tmp_path / "b.png").write_bytes(grey_png(np.array([[0, 15]]), 4 if bits == 8 else 2))
    named = [("a.dcm", path), ("b.png", tmp_path / "b.png")]
    with pytest.raises(DataError) as caught:
        open_files(named)
    advised = "data.bits: 8, to which they are scaled" in str(caught.value)
    assert advised == (bits == 8)  # a scan of fewer bits is not scaled
    if advised:
        assert open_files(named, bits=8).image(1).tolist() == [[[0, 255]]]


def test_many_files_of_another_pixel_space_are_counted(scan):
    kinds = (np.int16, np.uint16, np.uint16, np.int16, np.uint16)
    named = [(f"{n}.dcm", scan(np.zeros((2, 2), kind), name=f"{n}.dcm")) for n, kind in enumerate(kinds)]
    with pytest.raises(
        DataError, match=r"^0.dcm, like 1 other, is of signed values, unlike 1.dcm, like 2 others: a budget means"
    ):
        open_files(named)
    with pytest.raises(DataError, match=r"^1.dcm, like 2 others, is not CT in Hounsfield units, by its header"):
        open_files([named[1], named[2], named[4]], bits=12, hounsfield=-1024)


def test_a_policy_says_what_a_picture_is_in_hounsfield_units(tmp_path, load):
    (tmp_path / "scans/normal").mkdir(parents=True)
    Image.fromarray(np.array([[0, 1024]], np.uint16)).save(tmp_path / "scans/normal/a.png")
    samples = load("scans", bits=12, hounsfield=-1024)
    assert samples.hounsfield == samples.info.hounsfield == -1024
    assert samples.image(0).tolist() == [[[0, 1024]]]
    np.savez(tmp_path / "a.npz", test_images=np.zeros((1, 2, 2), np.uint16), test_labels=[[0]])
    samples = load("a.npz", bits=12, hounsfield=-1000)
    assert samples.hounsfield == -1000


def test_a_file_that_changes_is_noticed(scan):
    path = scan(np.zeros((2, 2), np.uint16), bits=12)
    images = open_scan(path)
    save_scan(path, np.ones((2, 2), np.uint16), bits=12)
    with pytest.raises(DataError, match=r"a\.dcm: the file has changed since it was loaded"):
        images.image(0)


def test_nothing_about_a_patient_is_read(scan, monkeypatch):
    path, read, seen = scan(np.zeros((2, 2), np.uint16), bits=12), pydicom.dcmread, []

    def spy(*arguments, **options):
        seen.append(read(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(pydicom, "dcmread", spy)
    open_scan(path).image(0)
    assert len(seen) == 2
    assert all("Rows" in data and "PatientName" not in data for data in seen)
    assert "PatientName" in read(path)
