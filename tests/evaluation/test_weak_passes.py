"""Passes of next to no budget, or of an attack that was hardly one, are told."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from building import ARCHITECTURE, brightness_gates, brightness_policy, brightness_project, flat_images
from patching import FIXED, run_patches

from robustcheck import load_policy, run
from robustcheck.evaluation.search.found import Found
from robustcheck.evaluation.weak_passes import weak_passes
from robustcheck.policy import ATTACKS, FGSMSpec, PatchSpec, PGDSpec, Quantity, RP2Spec
from robustcheck.results import Cost, HealthCheck

CODES = {"tiny-budget", "few-queries", "enough-steps", "hardly-examined", "area-at-most"}
ONE_PIXEL = ARCHITECTURE.replace(
    "        excess = (image.flatten(1)",
    "        image = torch.cat([image.flatten(1)[:, :1], image.flatten(1)[:, 1:].detach()], dim=1)\n"
    "        excess = (image.flatten(1)",
)


def _told(gate):
    return {one.code: one.message for one in gate.findings if one.code in CODES}


def _gate(folder, attack, *, epsilon="4/255", more="", require="{accuracy: 0.1}"):
    brightness_project(folder)
    text = f"  - {{id: gate, attack: {attack}, epsilon: {epsilon}{more}, require: {require}}}\n"
    (found,) = brightness_gates(folder, text)
    return found


# --- limits of queries ---


@pytest.mark.parametrize(
    ("attack", "queries", "steps", "enough"),
    [
        ("{name: nes, samples: 2}", 8, "2 steps of nes", "30 (10 steps)"),
        ("noise", 1, "1 step of noise", "10 (10 steps)"),
        ("{name: square, patterns: false}", 19, "19 steps of square", "20 (20 steps)"),
        ("{name: square, restarts: 2, patterns: false}", 39, "19 steps of square", "40 (20 steps)"),
        ("{name: rays, patterns: false}", 107, "11 steps of rays", "108 (12 steps)"),
        ("rays", 107, "11 steps of rays, and is spent on random stripes and blocks, which turn more", "108 (12 steps)"),
        ("{name: hopskipjump, samples: 10}", 100, "3 steps of hopskipjump", "310 (10 steps)"),
        ("{name: label_only, samples: 4, copies: 2}", 80, "8 steps of label_only", "90 (10 steps)"),
        (
            "{name: label_only, samples: 8, copies: 2}",
            50,
            "2 steps of label_only, and is spent on random stripes and blocks, which turn more",
            "170 (10 steps)",
        ),
        ("{name: partial_information, samples: 4}", 49, "9 steps of partial_information", "50 (10 steps)"),
    ],
)
def test_a_limit_of_a_few_steps_is_told(attack, queries, steps, enough, tmp_path):
    few = _gate(tmp_path, attack, epsilon="1/255", more=f", queries: {queries}")
    assert few.verdict == "pass"
    assert _told(few) == {
        "few-queries": f"queries: {queries} pays for at most {steps}: a pass is about an adversary who may ask no more "
        f"than that, not about the network; unless nobody can ask more, give {enough} or more"
    }
    more = _gate(tmp_path, attack, epsilon="1/255", more=f", queries: {enough.split()[0]}")
    assert (more.verdict, _told(more)) == ("pass", {})


def test_an_attack_that_turned_half_of_what_it_was_about_is_not_told_of_its_limit(tmp_path):
    found = _gate(tmp_path, "{name: square, patterns: false}", epsilon="60/255", more=", queries: 9")
    assert (found.verdict, _told(found)) == ("pass", {})
    assert sum(outcome.status == "broken" for outcome in found.samples) >= 6


def test_patterns_in_place_of_an_attack_are_told_however_many_they_turn(tmp_path):
    found = _gate(tmp_path, "rays", epsilon="24/255", more=", queries: 20")
    assert sum(outcome.status == "broken" for outcome in found.samples) >= 6
    assert (found.verdict, set(_told(found))) == ("pass", {"few-queries"})
    assert (found.attack, found.parameters) == (
        "rays",
        {"patterns": "in its place, as its queries pay for fewer than 12 steps"},
    )


def test_a_gate_that_fails_is_not_told_of_its_limit(tmp_path):
    found = _gate(tmp_path, "noise", more=", queries: 1", require="{accuracy: 1}", epsilon="8/255")
    assert (found.verdict, _told(found)) == ("fail", {})


def test_first_steps_are_paid_by_the_fewest_queries_that_a_policy_may_give():
    for spec in ATTACKS.values():
        if spec.knowledge in ("scores", "top-k", "label"):
            one = spec.model_validate({"name": spec.model_fields["name"].annotation.__args__[0]})
            assert 1 <= one.queries_a_step <= one.least_queries


# --- what was examined ---


def test_a_gate_too_small_to_be_examined_is_told_once(tmp_path):
    """Its gradient goes through one pixel of 64, and PGD turns nothing."""
    levels = (100, 105, 110, 115, 120, 122, 133, 135, 140, 145, 150, 155)
    brightness_project(tmp_path, levels=levels)
    (tmp_path / "brightness.py").write_text(ONE_PIXEL)
    gate = "  - {id: pgd, attack: {name: pgd, steps: 5}, epsilon: 8/255, require: {accuracy: 1}}\n"
    (found,) = brightness_gates(tmp_path, gate)
    assert (found.verdict, found.metrics["accuracy"].value) == ("pass", 1)
    assert _told(found) == {
        "hardly-examined": f"the gate passes on 12 samples, with {found.cost.forward} passes through the network, too "
        "few for gradient-explains and beats-searches-without-gradients: whether the gradient leaves out what would "
        "turn them is not known; add samples, or steps"
    }
    assert found.cost.forward < 100
    (more,) = brightness_gates(tmp_path, gate.replace("steps: 5", "steps: 40"))
    assert (more.verdict, _told(more)) == ("error", {})  # gradient-explains sees it
    assert "gradient-explains" in [one.code for one in more.findings]


def _standing(*, attack=None, attacked=12, held=12, searched=12, **gate):
    """A gate that passes, on images of 32x32 in 8 bits, unless it says otherwise."""
    bits, shape, visible, randomness = (gate.pop(name, usual) for name, usual in _IMAGES.items())
    preprocess = SimpleNamespace(visible=visible)
    samples = SimpleNamespace(bits=bits, maximum=2**bits - 1, shape_of=lambda _: shape)
    attack = attack or PGDSpec(name="pgd", steps=5)
    usual = {"epsilon": "8/255", "norm": "linf", "queries": None, "knowledge": "white-box", "conditions": None}
    asked = usual | gate
    if asked["epsilon"]:
        asked["epsilon"] = Quantity.parse(asked["epsilon"], length=asked["norm"] == "l2")
    return SimpleNamespace(
        gate=SimpleNamespace(attack=attack, attack_name=attack.name, bounds=(), **asked),
        setting=SimpleNamespace(
            samples=samples, candidate=SimpleNamespace(randomness=randomness, preprocess=preprocess)
        ),
        attacked=list(range(attacked)),
        broken={},
        held=list(range(held)),
        found=Found(searched=set(range(searched))),
    )


_IMAGES = {"bits": 8, "shape": (3, 32, 32), "visible": (0.0, 1.0), "randomness": None}


def test_what_would_pay_for_an_examination_is_told():
    of_seven, seen = _standing(attacked=7, held=7), _standing(attacked=7, held=7, conditions="turned")
    ((_, of_few), (_, under_conditions)) = (_messages(one)[0] for one in (of_seven, seen))
    assert "7 samples, fewer than the 8 needed for gradient-explains and beats-searches-without-gradients" in of_few
    assert of_few.endswith("not known; add samples")
    assert "fewer than the 8 needed for gradient-explains: whether" in under_conditions  # no other is tried there


def _codes(standing, **more):
    return [code for code, _ in _messages(standing, **more)]


def _messages(standing, *, forward=1000, examined=()):
    names = ("gradient-explains", "beats-searches-without-gradients")
    health = [
        HealthCheck(name=name, outcome="sound" if name in examined else "not examined", evidence="") for name in names
    ]
    return [(one.code, one.message) for one in weak_passes(standing, health, Cost(forward=forward))]


@pytest.mark.parametrize(
    ("forward", "more", "examined", "told"),
    [
        (99, {}, (), True),
        (100, {}, (), False),  # then gradient-explains is tried
        (1000, {"attacked": 7, "held": 7}, (), True),  # on eight samples
        (99, {"held": 7}, (), True),
        (99, {"held": 6}, (), False),  # what turned half of them works
        (99, {"searched": 11}, (), False),  # another search stands for this one
        (99, {"attacked": 2, "held": 2}, (), False),  # which gradient-predicts tells
        (99, {}, ("gradient-explains",), False),
        (99, {}, ("beats-searches-without-gradients",), False),
        (99, {"attack": FGSMSpec(name="fgsm")}, (), False),  # a single step is weak by design
        (99, {"knowledge": "transfer"}, (), False),
        (99, {"epsilon": None, "norm": None}, (), False),  # patches have controls
        (99, {"randomness": 0.1}, (), False),  # no number of passes would pay for it
    ],
)
def test_which_gates_are_hardly_examined(forward, more, examined, told):
    assert _codes(_standing(**more), forward=forward, examined=examined) == ["hardly-examined"] * told


# --- areas ---


@pytest.mark.parametrize(
    ("require", "told"),
    [
        ("{auroc: 0.9}", True),
        ("{auroc: 0.9, sensitivity: 0}", True),
        ("{auroc: 0.7}", False),  # what is left if those that turned go as far as can be
        ("{auroc: '<= 1'}", False),
        ("{sensitivity: 0.5}", False),
    ],
)
def test_an_area_that_rests_on_where_searches_stopped_is_told(require, told, tmp_path):
    """Bright images end just below the middle, and still above all dark ones."""
    brightness_project(tmp_path)
    flat_images(tmp_path, [*[60] * 10, *[129] * 2, *[200] * 8], [*[0] * 10, *[1] * 10])
    gate = f"attack: {{name: pgd, steps: 40}}, epsilon: 4/255, goal: missed_finding, require: {require}"
    (tmp_path / "policy.yaml").write_text(brightness_policy(f"  - {{id: gate, {gate}}}", data="source: flat.npz"))
    (gate,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert (gate.verdict, gate.metrics["auroc"].value, gate.metrics["sensitivity"].value) == ("pass", 1, 0.8)
    message = _told(gate).get("area-at-most", "")
    assert bool(message) == told
    if told:
        assert "with 2 turned samples as far across as can be, it would be auroc (>= 0.9) 0.800" in message


# --- budgets ---


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"norm": "l2", "epsilon": "0.5"}, False),
        ({"norm": "l2", "epsilon": "8/255"}, True),  # 0.14 levels in each of 3,072 values
        ({"norm": "l2", "epsilon": "8/255", "shape": (1, 32, 32)}, False),  # a quarter
        ({"norm": "l2", "epsilon": "8/255", "shape": (1, 33, 33)}, True),
        ({"norm": "l2", "epsilon": "0.5", "shape": (3, 224, 224)}, False),
        ({"norm": "l2", "epsilon": "0.3", "shape": (3, 224, 224)}, True),
        ({"epsilon": "1/255"}, False),
        ({"epsilon": "1 level", "bits": 4}, False),
        ({"epsilon": "8 levels", "bits": 16}, True),
        ({"epsilon": "64 levels", "bits": 16}, True),
        ({"epsilon": "65 levels", "bits": 16}, False),
        (
            {"epsilon": "8 levels", "bits": 16, "visible": (0.5, 0.51)},
            False,
        ),  # of a hundredth of the range
        ({"epsilon": "20 HU", "bits": 16}, False),
        ({"epsilon": "8 levels", "bits": 16, "attacked": 0, "held": 0}, False),
    ],
)
def test_which_budgets_are_tiny(more, told):
    assert _codes(_standing(**more)) == ["tiny-budget"] * told


def test_a_budget_of_l_infinity_in_l2_is_told(tmp_path):
    found = _gate(tmp_path, "{name: pgd, steps: 20}", epsilon="1.5/255", more=", norm: l2")
    assert found.verdict == "pass"
    assert _told(found)["tiny-budget"] == (
        "in L2, epsilon 1.5/255 is a budget for the whole image: over 64 values it is a change of 0.19 of one of 255 "
        "grey levels each (RMS), which shows next to nothing; raise it (0.5 is common on 32×32 colour images, and "
        "larger ones take more), or leave norm out if you mean L∞, as in 8/255"
    )


def test_levels_of_16_bits_are_told(tmp_path):
    brightness_project(tmp_path)
    images = np.stack([np.full((8, 8), level * 257, np.uint16) for level in (100, 120, 140, 155)])
    np.savez(tmp_path / "flat.npz", test_images=images, test_labels=np.array([[0], [0], [1], [1]]))
    gates = "  - {id: few, attack: {name: pgd, steps: 40}, epsilon: 8 levels, require: {accuracy: 1}}\n"
    gates += "  - {id: share, attack: {name: pgd, steps: 40}, epsilon: 1/255, require: {accuracy: 0.5}}\n"
    (tmp_path / "policy.yaml").write_text(brightness_policy(gates, data="source: flat.npz, bits: 16"))
    few, share = run(load_policy(tmp_path / "policy.yaml"), folder=tmp_path / "out").gates
    assert _told(few)["tiny-budget"] == (
        "epsilon 8 levels is 0.031 of one of 255 grey levels: a change as small as that shows next to nothing; write "
        "it as a share of the range, such as 8/255, or say in data.bits how many bits are used"
    )
    assert share.verdict == "pass"
    assert "tiny-budget" not in _told(share)


# --- patches and stickers ---


@pytest.mark.parametrize("universal", ["true", "false"])
def test_a_patch_that_was_hardly_trained_is_told(universal, patched):
    weak = f"{{name: patch, universal: {universal}, steps: 1, draws: 1, step_size: 0.001}}"
    (found,) = run_patches(patched, weak)
    assert found.verdict == "pass"
    assert _told(found) == {
        "enough-steps": "the search has too few steps, or steps that are too small; 1 step of 0.001, which fall to "
        "0, change a pixel of a patch by at most 0.001 of what is visible: fewer than 10 steps, or less than the "
        "0.5 from grey to black or white, are too little training; raise steps, or leave step_size at its default"
    }
    (found,) = run_patches(patched, f"{FIXED}, universal: {universal}}}")
    assert (found.verdict, _told(found)) == ("pass", {})


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (PatchSpec(name="patch"), False),
        (PatchSpec(name="patch", universal=False), False),
        (PatchSpec(name="patch", universal=False, step_size=0.009), True),  # a hundred steps
        (PatchSpec(name="patch", step_size=0.009), False),  # five hundred
        (PatchSpec(name="patch", steps=18), True),
        (PatchSpec(name="patch", steps=19), False),
        (PatchSpec(name="patch", steps=9, step_size=1), True),
        (PatchSpec(name="patch", steps=18, patch="given.png"), False),
        (RP2Spec(name="rp2", stickers=[0, 0, 1, 1]), False),
        (RP2Spec(name="rp2", stickers=[0, 0, 1, 1], steps=10), True),
    ],
)
def test_which_patches_and_stickers_are_hardly_trained(attack, told):
    assert _codes(_standing(attack=attack, epsilon=None, norm=None)) == ["enough-steps"] * told
