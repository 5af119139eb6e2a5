"""The pictures on the page: those that were judged, before, after and changed."""

import re
from dataclasses import replace

import numpy as np
import pytest
from report_builder import (
    DATA,
    failing,
    metric,
    report,
    save,
    threat,
    with_pictures,
)
from report_page import page

from robustcheck.report import pictures, render_reports
from robustcheck.results import GateResult


def with_file(result: GateResult, **changes) -> GateResult:
    """The gate with one broken sample, changed."""
    return replace(result, samples=(replace(result.samples[0], **changes),))


@pytest.fixture
def shown(tmp_path):
    """A failing gate with two pictures on disk."""
    return with_pictures(failing(threat=threat(4)), tmp_path, most=2)


def test_examples_are_shown_before_after_and_changed(shown, tmp_path):
    parsed = page(report(shown, verdict="fail"), tmp_path)
    pictures = parsed.pictures()

    assert len(pictures) == 6
    clean, attacked, difference = (picture.astype(int) for picture in pictures[:3])
    assert clean.shape == (28, 28)
    assert np.abs(attacked - clean).max() == 4
    # The budget spans the range, and mid-grey is no change.
    assert set(np.unique(difference[attacked == clean])) == {128}
    assert np.array_equal(difference[attacked - clean == 4], np.full_like(difference[attacked - clean == 4], 255))
    assert np.array_equal(difference[attacked - clean == -4], np.zeros_like(difference[attacked - clean == -4]))
    assert "2 of 175 broken samples; report.json lists all of them." in parsed.text
    assert re.search(r"Before: normal\s*Attacked: pneumonia\s*Difference ×31.9", parsed.text)
    assert "largest change 4 grey levels" in parsed.text
    assert all(one["class"] == "sharp" for one in parsed.of("img"))


def test_examples_name_their_files_and_digests_and_lead_to_them(shown, tmp_path):
    one = report(shown, verdict="fail")
    parsed = page(one, tmp_path)
    links = [link["href"] for link in parsed.of("a") if link["href"].startswith("./")]

    assert links[:2] == ["./counterexamples/clean/00000.png", "./counterexamples/pgd-2-255/00000.png"]
    assert all((tmp_path / link).is_file() for link in links)
    assert shown.samples[0].sha256
    assert f"counterexamples/pgd-2-255/00000.pngsha256 of its pixels {shown.samples[0].sha256}" in parsed.text
    alone = tmp_path / "elsewhere"
    render_reports(one, alone, images=tmp_path)
    away = (alone / "report.html").read_text(encoding="utf-8")
    assert shown.samples[0].sha256 in away
    assert 'href="./' not in away, "there is nothing beside it to lead to"


def test_what_a_picture_shows_is_told_to_who_does_not_see_it(shown, tmp_path):
    told = [one["alt"] for one in page(report(shown, verdict="fail"), tmp_path).of("img")]

    assert told[:3] == [
        "test/00000 before the attack, read as normal",
        "test/00000 attacked, read as pneumonia",
        "test/00000, what the attack changed, ×31.9",
    ]
    assert len(told) == len(set(told))


@pytest.mark.parametrize(("name", "link"), [("javascript:alert(1)", "./javascript%3Aalert%281%29"), ('a"b', "./a%22b")])
def test_a_link_to_a_file_leads_nowhere_else(name, link):
    assert pictures.link_to(name) == link


@pytest.mark.parametrize(("side", "kind"), [(28, "example"), (150, "example"), (224, "example wide")])
def test_pictures_of_large_images_have_a_row_of_their_own(side, kind, tmp_path):
    shown = with_pictures(failing(), tmp_path, most=1, side=side)
    parsed = page(report(shown, verdict="fail"), tmp_path)

    assert [one["class"] for one in parsed.of("div") if "example " in f"{one['class']} "] == [kind]


def test_at_most_six_examples_a_gate(tmp_path):
    shown = with_pictures(failing(), tmp_path, most=9)

    assert len(page(report(shown, verdict="fail"), tmp_path).pictures()) == 18


def test_many_gates_share_the_room_for_examples(tmp_path):
    shown = with_pictures(failing(), tmp_path)
    many = report(*(replace(shown, id=f"g{number}") for number in range(30)), verdict="fail")

    assert len(page(many, tmp_path).pictures()) == 30 * 2 * 3


def test_more_gates_than_a_page_has_room_for(tmp_path):
    shown = with_pictures(failing(), tmp_path, most=1)
    many = report(*(replace(shown, id=f"g{number}") for number in range(70)), verdict="fail")
    parsed = page(many, tmp_path)

    assert len(parsed.pictures()) == 60 * 3
    assert parsed.text.count("A page shows 60 pictures of samples and patches at most; others are left out.") == 10


def test_a_report_that_names_one_picture_ever_again_has_it_decoded_so_often(shown, tmp_path, monkeypatch):
    decoded, decode = [], pictures._decoded
    monkeypatch.setattr(pictures, "_decoded", lambda *given: decoded.append(1) or decode(*given))
    monkeypatch.setattr(pictures, "MOST_DECODED", 7)
    again = [replace(row, sha256="0" * 64) for row in shown.samples if row.sha256] * 10
    page(report(replace(shown, samples=tuple(again)), verdict="fail"), tmp_path)

    assert len(decoded) == 7


def test_no_folder_no_pictures(shown):
    assert page(report(shown, verdict="fail")).pictures() == []


def test_a_sample_without_its_clean_picture_is_not_shown(shown, tmp_path):
    (tmp_path / "counterexamples/clean/00000.png").unlink()

    assert len(page(report(shown, verdict="fail"), tmp_path).pictures()) == 3


def test_a_picture_that_is_not_the_one_that_was_judged_is_left_out(shown, tmp_path):
    save(tmp_path, "counterexamples/pgd-2-255/00000.png", np.zeros((1, 28, 28), np.uint8))
    parsed = page(report(shown, verdict="fail"), tmp_path)

    assert len(parsed.pictures()) == 3
    assert "1 picture left out: the file is not the one that was judged (its digest differs)." in parsed.text


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<u1'}", b"GIF89a" + bytes(40)],
)
def test_a_file_that_is_no_picture_only_drops_its_example(shown, tmp_path, content):
    (tmp_path / "counterexamples/clean/00000.png").write_bytes(content)

    assert len(page(report(shown, verdict="fail"), tmp_path).pictures()) == 3


def test_deep_grey_is_scaled_by_its_bits(tmp_path):
    clean = np.full((1, 4, 4), 4095, np.uint16)
    file = "counterexamples/g/00001.png"
    save(tmp_path, "counterexamples/clean/00001.png", clean)
    one = with_file(failing(threat=threat(16)), counterexample=file, sha256=save(tmp_path, file, clean - 16))
    pictures = page(report(one, verdict="fail", data=replace(DATA, bits=12)), tmp_path).pictures()

    assert [picture[0, 0] for picture in pictures] == [255, 254, 0]


def test_an_image_that_uses_few_of_its_levels_is_shown_from_its_darkest_to_its_brightest(tmp_path):
    clean = np.array([[[33000, 33100], [33200, 33510]]], np.uint16)
    file = "counterexamples/g/00001.png"
    save(tmp_path, "counterexamples/clean/00001.png", clean)
    attacked = clean + np.array([[[-16, 0], [16, 0]]], np.int16).astype(np.uint16)
    one = with_file(failing(threat=threat(16)), counterexample=file, sha256=save(tmp_path, file, attacked))
    shown = page(report(one, verdict="fail", data=replace(DATA, bits=16)), tmp_path)
    before, after, change = shown.pictures()

    assert before.tolist() == [[0, 50], [100, 255]]
    assert after.tolist() == [[0, 50], [108, 255]]
    assert change.tolist() == [[0, 128], [255, 128]]
    assert "from their darkest to their brightest" in shown.text
    assert "Difference ×15.9" in shown.text


@pytest.mark.parametrize(("dtype", "suffix", "bits", "top"), [(np.uint16, "npy", 16, 65535), (np.uint8, "png", 8, 255)])
def test_colour_is_shown_in_colour(tmp_path, dtype, suffix, bits, top):
    clean = np.zeros((3, 4, 5), dtype)
    clean[0] = top
    attacked = clean.copy()
    attacked[1] += 2
    file = f"counterexamples/g/00001.{suffix}"
    save(tmp_path, f"counterexamples/clean/00001.{suffix}", clean)
    one = with_file(failing(threat=threat(2)), counterexample=file, sha256=save(tmp_path, file, attacked))
    before, _, difference = page(report(one, verdict="fail", data=replace(DATA, bits=bits)), tmp_path).pictures()

    assert before.shape == (4, 5, 3)
    assert before[0, 0].tolist() == [255, 0, 0]
    assert difference[0, 0].tolist() == [128, 255, 128]


def test_large_pictures_are_reduced_and_it_says_so(tmp_path):
    shown = with_pictures(failing(), tmp_path, most=1, side=800)
    parsed = page(report(shown, verdict="fail"), tmp_path)

    assert {picture.shape for picture in parsed.pictures()} == {(267, 267)}
    assert {one["class"] for one in parsed.of("img")} == {"smooth"}
    assert "shown smaller than they are stored" in parsed.text


def test_a_probability_is_of_the_gates_own_finding(tmp_path):
    for finding, about in ((None, "the positive label"), ("nodule", "nodule")):
        shown = with_pictures(failing(), tmp_path)
        scored = tuple(replace(row, score=0.25) for row in shown.samples)
        of_finding = replace(shown.threat, finding=finding)
        metrics = shown.metrics | {"auroc": metric(400)}
        parsed = page(report(replace(shown, samples=scored, threat=of_finding, metrics=metrics)), tmp_path)
        assert f"probability of {about} 0.250" in parsed.text
        assert f"area under the ROC curve of {about}'s probability" in parsed.text
