"""Parts of images that a policy names."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from robustcheck.data import load_area
from robustcheck.errors import DataError


def _picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(path)


def test_boxes_cover_every_pixel_that_they_touch(tmp_path):
    mask = load_area([(0.0, 0.5, 0.25, 1.0), (0.9, 0.0, 1.0, 0.1)], tmp_path).mask("any", 4, 8)
    expected = np.zeros((4, 8), bool)
    expected[2:, :2] = True
    expected[0, 7] = True
    assert (mask == expected).all()


def test_shares_are_those_that_were_written(tmp_path):
    """Of floats, 0.29 * 100 is less than 29, and 0.55 * 100 more than 55."""
    mask = load_area([(0.29, 0.29, 0.55, 0.55)], tmp_path).mask("any", 100, 100)
    expected = np.zeros((100, 100), bool)
    expected[29:55, 29:55] = True
    assert (mask == expected).all()


def test_a_table_has_boxes_by_sample_in_pixels(tmp_path):
    (tmp_path / "boxes.csv").write_text(
        "path, left, top, right, bottom\na.png,1,0,3,2\na.png,5,5,6,6.5\nb.png,0,0,9,9\n"
    )
    area = load_area("boxes.csv", tmp_path)
    mask = area.mask("a.png", 8, 8)
    assert mask.sum() == 2 * 2 + 1 * 2
    assert mask[:2, 1:3].all()
    assert area.mask("b.png", 4, 4).all()
    assert not area.mask("other.png", 4, 4).any()


@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_a_table_as_spreadsheets_write_it_and_paths_as_people_do(tmp_path, comma):
    rows = ["path,left,top,right,bottom", "./scans//a.png,0,0,2,2"]
    (tmp_path / "boxes.csv").write_text("\n".join(rows).replace(",", comma))
    assert load_area("boxes.csv", tmp_path).mask("scans/a.png", 4, 4).sum() == 4


def test_a_scanners_name_has_no_ending_that_a_mask_could_replace(tmp_path):
    _picture(tmp_path / "masks/1.2.840.png", [[255]])
    _picture(tmp_path / "masks/1.2.840.6.png", [[255]])
    area = load_area("masks", tmp_path)
    assert not area.mask("1.2.840.5", 1, 1).any()
    assert area.mask("1.2.840.6", 1, 1).all()
    assert area.mask("1.2.840.6.dcm", 1, 1).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,left,top,right\na,1,2,3\n", "boxes.csv: it has no column bottom"),
        ("path,left,top,right,bottom\na,1,2,3,x\n", "boxes.csv:2: bottom: found 'x'; boxes are given in pixels"),
        ("path,left,top,right,bottom\na,1,2,3\n", "boxes.csv:2: bottom: found 'nothing'"),
        ("path,left,top,right,bottom\na,1,2,nan,4\n", "boxes.csv:2: right: found 'nan'"),
        ("path,left,top,right,bottom\na,1,2,1,4\n", r"boxes.csv:2: the box \[1, 2, 1, 4\] has no area"),
        ("", "boxes.csv: it has no column path"),
    ],
)
def test_a_table_that_is_none_is_said_with_its_line(text, said, tmp_path):
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        load_area("boxes.csv", tmp_path)


def test_a_folder_has_a_mask_a_sample(tmp_path):
    _picture(tmp_path / "masks" / "test" / "17.png", [[0, 255], [1, 0]])
    _picture(tmp_path / "masks" / "scan.png", [[9, 0]])
    area = load_area("masks", tmp_path)
    assert area.mask("test/17", 2, 2).tolist() == [[False, True], [True, False]]
    assert area.mask("scan.jpg", 1, 2).tolist() == [[True, False]]
    assert not area.mask("test/18", 3, 3).any()
    with pytest.raises(DataError, match=r"masks/test/17.png is a mask of 2×2 pixels .* 3×3"):
        area.mask("test/17", 3, 3)


def test_a_mask_that_is_called_otherwise_than_its_sample_is_refused(tmp_path):
    """It would protect nothing."""
    names = ["test/17.dcm", "test/18.dcm", "test/M\u00fcller.png"]
    for name in ("test/17.png", "test/18.dcm.png", "test/of_another_split.png"):
        _picture(tmp_path / "masks" / name, [[255]])
    area = load_area("masks", tmp_path)
    area.check_names(names)
    for slip, meant in (("Test/17.png", "test/17.png"), ("test/Mu\u0308ller.png", names[2])):
        _picture(tmp_path / "masks" / slip, [[255]])
        with pytest.raises(DataError) as caught:
            area.check_names(names)
        assert str(caught.value).startswith(f"masks: no sample has a mask called {slip!r}, so it would be left out; ")
        assert str(caught.value).endswith(f" is called {meant!r}")
        (tmp_path / "masks" / slip).unlink()


def test_names_do_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "masks").mkdir()
    _picture(tmp_path / "secret.png", [[255]])
    area = load_area("masks", tmp_path)
    assert not area.mask("../secret", 1, 1).any()
    assert not area.mask(str(tmp_path / "secret"), 1, 1).any()


def test_one_mask_fits_every_image(tmp_path):
    _picture(tmp_path / "mask.png", [[0, 255], [0, 0]])
    area = load_area("mask.png", tmp_path)
    mask = area.mask("any", 4, 6)
    assert mask[:2, 3:].all()
    assert mask.sum() == 6
    assert area.mask("any", 1, 1).shape == (1, 1)


def test_one_mask_has_two_levels_and_the_brighter_one_is_meant(tmp_path):
    _picture(tmp_path / "mask.png", [[40, 41], [40, 40]])
    assert load_area("mask.png", tmp_path).mask("any", 2, 2).tolist() == [[False, True], [False, False]]
    _picture(tmp_path / "mask.png", [[255, 255]])
    assert load_area("mask.png", tmp_path).mask("any", 1, 2).all()
    _picture(tmp_path / "mask.png", [[0, 40, 255]])
    with pytest.raises(DataError) as caught:
        load_area("mask.png", tmp_path)
    assert str(caught.value) == (
        "mask.png has 3 grey levels, 0 to 255; a mask has two: black, and white for what it covers"
    )


def test_a_mask_that_is_no_picture(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"mask.png is not a PNG"):
        load_area("mask.png", tmp_path)
