"""What reports say of patches, stickers and viewing conditions."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from PIL import Image
from report_builder import HOSTILE, clean_gate, failing, gate, metric, report, threat, with_pictures
from test_report_html import page

from robustcheck.digests import pixels_sha256
from robustcheck.report.gate import gate_text
from robustcheck.report.html import html
from robustcheck.report.junit import gate_properties
from robustcheck.report.summary import summary_table
from robustcheck.report.threat import budget_text, conditions_text, threat_text
from robustcheck.results import AuditReport, Cell, Control, Patch, Threat

PATCH = Threat(goal="targeted", target="normal", knowledge="white-box", capability="patch", size="10%")
STICKERS = Threat(
    goal="untargeted",
    knowledge="white-box",
    capability="stickers",
    conditions={"rotation": [-10.0, 10.0], "scale": [0.5, 1.0], "draws": 8, "judged_on": 100, "holds_on": 0.9},
)
PIXELS = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
FILES = {"picture": "counterexamples/patches/sticker.png", "array": "counterexamples/patches/sticker.npy"}


def patched(**changes):
    metrics = {"attack_success": metric(300), "control_success": metric(50), "accuracy": metric(200)}
    known = {
        "id": "sticker[10%]",
        "attack": "patch",
        "threat": PATCH,
        "metrics": metrics,
        "controls": (
            Control(name="natural patch", success=metric(50)),
            Control(name="grey patch", success=metric(40)),
        ),
        "patch": Patch(**FILES, sha256=pixels_sha256(PIXELS), side=8, origin="trained here for 500 steps"),
    }
    return gate(**known | changes)


def stickers():
    cells = tuple(
        Cell(distance=distance, angle=angle, success=metric(400 - 100 * at), control=metric(10 * at))
        for distance in (1.0, 2.0)
        for at, angle in enumerate((-30.0, 0.0, 30.0))
    )
    control = (Control(name="no attack", success=metric(5)),)
    return gate(id="rp2", attack="rp2", threat=STICKERS, cells=cells, controls=control)


def test_the_threat_is_a_patch_and_no_ball():
    text = threat_text(PATCH)
    assert "Capability: lay a patch on the image, 10% of its area." in text
    assert "one particular wrong answer (targeted), normal" in text
    assert "lay a patch on the image, 32 px long." in threat_text(replace(PATCH, size="32 px"))
    assert budget_text(PATCH) == "patch of 10%"
    given = threat_text(replace(PATCH, knowledge="none"))
    assert "Knowledge: nothing: what it uses was made beforehand (none)." in given
    assert "Queries: none about a sample." in given


def test_conditions_are_told_as_ranges():
    assert conditions_text(STICKERS) == "rotation -10 to 10, scale 0.5 to 1"
    assert threat_text(STICKERS).endswith(
        "Seen with: rotation -10 to 10, scale 0.5 to 1; a counterexample holds on 90 % of 100 looks, from each cell of "
        "its grid (distance and angle) under draws of rotation."
    )
    places = replace(STICKERS, conditions={key: ends for key, ends in STICKERS.conditions.items() if key != "rotation"})
    assert threat_text(places).endswith("scale 0.5 to 1; a counterexample holds on 90 % of the cells of its grid.")
    calls = replace(STICKERS, conditions={**STICKERS.conditions, "candidate_draws": True})
    assert threat_text(calls).endswith(
        "holds on 90 % of 100 looks, from each cell of its grid (distance and angle) under draws of rotation, each a "
        "call of its own, and of as many calls again."
    )
    of_places = replace(places, conditions={**places.conditions, "candidate_draws": True})
    assert threat_text(of_places).endswith(
        "90 % of 100 looks, from each cell of its grid (distance and angle), each a call of its own, and of as many "
        "calls again."
    )
    drawn = replace(threat(), conditions={**STICKERS.conditions, "candidate_draws": True})
    assert threat_text(drawn).endswith("90 % of 100 fresh looks, each a call of its own, and of as many again.")
    seen = replace(threat(), conditions=STICKERS.conditions)
    assert threat_text(seen).endswith("a counterexample holds on 90 % of 100 fresh looks, and of as many again.")
    assert "paint anything inside a mask" in threat_text(STICKERS)
    assert conditions_text(threat()) == ""
    assert conditions_text(replace(STICKERS, conditions={"rotation": "much", HOSTILE: [1, 2], "blur": ["a"]})) != ""


def test_the_patch_stands_beside_its_controls():
    text = " ".join(page(report(patched())).text.split())
    assert "the patch0.6000.560 to 0.640300 of 500" in text
    assert "natural patch0.1000.060 to 0.14050 of 500" in text
    assert "grey patch0.080" in text
    assert "What a control turns too is due to occlusion or viewing, not to the attack." in text
    assert "trained here for 500 steps" in text
    assert "Compared with its controls" not in page(report(gate())).text


def test_the_patch_is_shown_if_its_file_is_the_one_that_was_judged(tmp_path):
    folder = tmp_path / "counterexamples" / "patches"
    folder.mkdir(parents=True)
    Image.fromarray(PIXELS[0]).save(folder / "sticker.png")
    shown = 'alt="the patch"'
    assert shown in html(report(patched()), tmp_path, beside=True)
    assert shown not in html(report(patched()), None, beside=True)
    Image.fromarray(PIXELS[0] + 1).save(folder / "sticker.png")
    assert shown not in html(report(patched()), tmp_path, beside=True)
    np.save(folder / "sticker.npy", PIXELS)
    only = replace(patched().patch, picture=None)
    assert shown in html(report(patched(patch=only)), tmp_path, beside=True)
    many = html(report(*(patched(id=f"p{number}", patch=only) for number in range(70))), tmp_path, beside=True)
    assert many.count(shown) == 60
    away = replace(patched().patch, picture="../../etc/passwd")
    assert shown not in html(report(patched(patch=away)), tmp_path, beside=True)


def test_a_patch_without_a_picture_says_why(tmp_path):
    def told(folder, *gates):
        return page(report(*gates), folder).text

    assert "left out" not in told(None, patched())
    assert "left out" not in told(tmp_path, patched(patch=replace(patched().patch, picture=None, array=None)))
    assert "Its picture is left out: the file is not there, or cannot be shown." in told(tmp_path, patched())
    folder = tmp_path / "counterexamples" / "patches"
    folder.mkdir(parents=True)
    Image.fromarray(PIXELS[0]).save(folder / "sticker.png")
    assert "left out" not in told(tmp_path, patched())
    full = told(tmp_path, *(patched(id=f"p{number}") for number in range(62)))
    assert full.count("Its picture is left out: the page has no room for more pictures.") == 2
    Image.fromarray(PIXELS[0] + 1).save(folder / "sticker.png")
    assert "Its picture is left out: the file is not the one that was judged" in told(tmp_path, patched())


def test_patches_have_room_before_samples(tmp_path):
    folder = tmp_path / "counterexamples" / "patches"
    folder.mkdir(parents=True)
    Image.fromarray(PIXELS[0]).save(folder / "sticker.png")
    both = replace(with_pictures(failing(), tmp_path, most=2), patch=patched().patch)
    many = html(report(*(replace(both, id=f"p{number}") for number in range(45))), tmp_path, beside=True)
    assert many.count('alt="the patch"') == 45
    assert many.count(" attacked, read as ") == 15


def test_stickers_have_a_table_of_distances_by_angles():
    text = page(report(stickers())).text
    table = " ".join(text.partition("By distance and angle")[2].split())
    assert "Distance-30°0°30°" in table.replace(" ", "")
    assert "10.8000.0000.6000.0200.4000.040" in table.replace(" ", "")
    assert "By distance and angle" not in page(report(patched())).text


def test_the_terminal_tells_controls_files_and_cells():
    text = gate_text(patched())
    assert "control: natural patch turned 0.100 (50 of 500; 95 % interval 0.060 to 0.140)" in text
    assert f"patch: trained here for 500 steps ({FILES['picture']}, {FILES['array']})" in text
    assert "distance 2, angle 30: turned 0.400, 0.040 without the attack" in gate_text(stickers())


def test_other_reports_name_the_size():
    assert ("threat.size", "10%") in gate_properties(patched())
    assert not [name for name, _ in gate_properties(stickers()) if name in ("threat.epsilon", "threat.size")]
    given = patched(threat=replace(PATCH, knowledge="none", goal="untargeted"))
    budgets = ((patched(), "10%, targeted: normal"), (given, "10%, given"), (stickers(), "stickers, under conditions"))
    for one, budget in budgets:
        assert budget in [str(cell) for cell in summary_table(report(one)).columns[2].cells]


def test_patches_are_not_drawn_against_epsilon():
    assert "Accuracy against ε" not in page(report(patched())).text
    assert "Accuracy against ε" in page(report(patched(), gate())).text


def test_what_was_not_tried_is_said():
    text = page(report(clean_gate(), gate())).text
    assert "Capabilities: a patch on the image (patch); anything inside a mask (stickers)." in text
    assert "Viewing conditions: images are judged as they are stored." in text
    text = page(report(gate(), patched(), stickers())).text
    assert "Capabilities:" not in text
    assert "Viewing conditions:" not in text
    given = page(report(patched(threat=replace(PATCH, knowledge="none")))).text
    (knowledge,) = re.findall(r"Knowledge: (the candidate's weights .*?)\.", given)
    assert re.findall(r"\(([\w-]+)\)", knowledge) == ["white-box", "scores", "top-k", "label", "transfer"]


def test_it_comes_back_from_json():
    made = report(patched(), stickers())
    assert AuditReport.from_json(made.to_json()) == made


def test_hostile_names_stay_text():
    one = patched(
        controls=(Control(name=HOSTILE, success=metric(1)),),
        patch=Patch(picture=HOSTILE, array=HOSTILE, sha256=HOSTILE, side=1, origin=HOSTILE),
        threat=replace(PATCH, size=HOSTILE, conditions={HOSTILE: [1, 2]}),
    )
    assert page(report(one)).of("script") == []
    assert "\x1b" not in gate_text(one)
