"""Files that say they store more bits than their values need: a note, once all have been decoded."""

from __future__ import annotations

import numpy as np
import pytest
from building import brightness_policy, brightness_project
from scans import CT, open_scan

from robustcheck import load_policy, run

INVERTED = {"PhotometricInterpretation": "MONOCHROME1"}
SHARES = "which budgets and brightness are shares of"
SHOWN = "; without preprocess.window the candidate is shown images of {} of full brightness"


def late_notes(images):
    """What is known once every image was decoded."""
    assert images.late_notes == ()
    for index in range(len(images)):
        images.image(index)
    return images.late_notes


@pytest.mark.parametrize(
    ("values", "bits", "said", "shown", "meant"),
    [
        ([0, 4095], 16, "4095 of 65535", "6 %", 12),
        ([0, 4096], 16, "4096 of 65535", "6 %", 14),
        ([0, 16383], 16, "16383 of 65535", "25 %", 14),
        ([0, 16384], 16, None, None, None),
        ([0, 1023], 12, "1023 of 4095", "25 %", 10),
        ([0, 1024], 12, None, None, None),
        ([0, 0], 16, "0 of 65535", "0 %", 8),
    ],
)
@pytest.mark.parametrize("header", [{}, INVERTED])
def test_scans_that_use_no_more_than_a_quarter(scan, values, bits, said, shown, meant, header):
    path = scan(np.array([values], np.uint16), bits=bits, **header)
    note = f"no value is above {said}, {SHARES}{'' if header else SHOWN.format(f'at most about {shown}')}: "
    note += f"if {meant} bits are meant, set data.bits: {meant}"
    assert late_notes(open_scan(path)) == (() if said is None else (note,))
    assert late_notes(open_scan(path, bits=bits)) == ()  # the policy says that it is meant
    if meant is not None:
        assert open_scan(path, bits=meant).image(0).max() <= (1 << meant) - 1


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (
            [-500, 2047],
            f"all values lie from -500 to 2047 of -32768 to 32767, {SHARES}{SHOWN.format('49 % to 53 %')}: "
            "if 12 bits are meant, set data.bits: 12",
        ),
        (
            [-2049, 0],
            f"all values lie from -2049 to 0 of -32768 to 32767, {SHARES}{SHOWN.format('47 % to 50 %')}: "
            "if 14 bits are meant, set data.bits: 14",
        ),
        ([-8193, 0], None),
    ],
)
def test_signed_scans(scan, values, note):
    path = scan(np.array([values], np.int16))
    assert late_notes(open_scan(path)) == (() if note is None else (note,))
    if note is not None:
        assert open_scan(path, bits=int(note.rpartition(" ")[2])).image(0).shape == (1, 1, 2)


@pytest.mark.parametrize(
    ("units", "bits", "said", "meant"),
    [
        ([-1024, 3071], 16, "-1024 to 3071", (12, -1024)),
        ([-1000, 40], 16, "-1000 to 40", (12, -1024)),
        ([-1000, 3072], 16, "-1000 to 3072", (13, -1024)),
        ([-2000, 40], 16, "-2000 to 40", (12, -2000)),
        ([-1024, 1000], 13, None, None),
    ],
)
def test_ct(scan, units, bits, said, meant):
    path = scan(np.array([units], np.int16) + np.int16(1024), bits=bits, **CT)
    notes = late_notes(open_scan(path))
    if meant is None:
        assert notes == ()
        return
    (note,) = notes
    assert note.startswith(f"all values lie from {said} of -33792 to 31743 HU, {SHARES}; without preprocess.window ")
    assert note.endswith(f": if {meant[0]} bits are meant, set data.bits: {meant[0]} and data.hounsfield: {meant[1]}")
    assert open_scan(path, bits=meant[0], hounsfield=meant[1]).image(0).shape == (1, 1, 2)


@pytest.mark.parametrize(
    "padding", [{"PixelPaddingValue": -2000}, {"PixelPaddingValue": 5, "PixelPaddingRangeLimit": -2001}]
)
def test_what_was_not_measured_of_a_ct_does_not_count(scan, padding):
    path = scan(np.array([[-2000, 24, 1024]], np.int16), **CT, **padding)
    (note,) = late_notes(open_scan(path))
    assert note.startswith("all values lie from -1000 to 0 of -33792 to 31743 HU")
    assert note.endswith("if 12 bits are meant, set data.bits: 12 and data.hounsfield: -1024")
    assert open_scan(path, bits=12, hounsfield=-1024).image(0).tolist() == [[[0, 24, 1024]]]
    nothing = scan(np.array([[-2000, -2000]], np.int16), name="b.dcm", **CT, **padding)
    assert len(late_notes(open_scan(nothing))) == 1


def test_all_images_count_and_none_of_eight_bits(load, save_picture):
    for name, high in (("a", 4095), ("b", 30_000)):
        save_picture(f"deep/normal/{name}.png", np.array([[0, high]], np.uint16))
    deep = load("deep").images
    deep.image(0)
    assert len(deep.late_notes) == 1
    deep.image(1)
    assert deep.late_notes == ()
    save_picture("scans/normal/a.png", np.array([[0, 7]], np.uint8))
    assert late_notes(load("scans").images) == ()


@pytest.mark.parametrize(
    ("header", "window", "noted"),
    [({}, "[0, 4095]", True), ({}, None, True), (CT, None, True), (CT, "[-1000, 400]", False)],
)
def test_the_report_has_the_note_unless_a_window_says_what_of_a_ct_is_seen(tmp_path, scan, header, window, noted):
    brightness_project(tmp_path)
    scan(np.full((8, 8), 4095, np.int16 if header else np.uint16), name="scans/dark/a.dcm", **header)
    model = "" if window is None else f"preprocess: {{window: {window}}}"
    gates = "\n  - id: clean\n    require: {accuracy: 0}\n"
    gates += "  - {id: noise, attack: {name: pgd, steps: 1}, epsilon: 1/255, require: {accuracy: 0}}\n"
    (tmp_path / "policy.yaml").write_text(brightness_policy(gates, model=model, data="source: scans"))
    report = run(load_policy(tmp_path / "policy.yaml"))
    assert report.gates[0].verdict == "pass"
    assert any(SHARES in note for note in report.data.notes) == noted
    for gate in report.gates:
        told = [finding.message for finding in gate.findings if finding.code == "range-unused"]
        assert told == [note for note in report.data.notes if SHARES in note]
