"""Gates of patches beside one another, on a network whose answer is the mean brightness.

A white patch turns the eight dark images, a black one the twelve bright ones, and a grey one none.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from building import brightness_policy
from patching import FIXED, patch_archive
from PIL import Image

from robustcheck import load_policy, run
from robustcheck.evaluation.health.comparing import comparable
from robustcheck.evaluation.health.patches import beside_patches
from robustcheck.results import GateResult, Metric, Outcome, Threat

SHORT = FIXED.replace("steps: 20, draws: 8, step_size: 0.3", "steps: 1, draws: 1, step_size: 0.001")
GIVEN = FIXED.replace("steps: 20, draws: 8, step_size: 0.3", "patch: white.png")


@pytest.fixture
def laid(patched):
    patch_archive(patched, test=[110] * 8 + [135] * 12, train=(40, 70, 100, 160, 190, 220))
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(patched / "white.png")
    return patched


def _gate(name, attack, bound="attack_success: '<= 1'", size="8 px", more=""):
    return f"  - {{id: {name}, attack: {attack}, size: {size}, require: {{{bound}}}{more}}}\n"


def _run(folder, *gates, extra=""):
    (folder / "policy.yaml").write_text(brightness_policy("".join(gates), extra=extra))
    return {gate.id: gate for gate in run(load_policy(folder / "policy.yaml")).gates}


BESIDE = ("as-strong-as-other-patches", "grows-with-size", "holds-against-others")


def _outcomes(gate):
    return {check.name: check.outcome for check in gate.health if check.name in BESIDE}


@pytest.mark.parametrize("first", [True, False])
def test_what_a_targeted_patch_turns_the_untargeted_one_may_turn_as_well(first, laid):
    own, other = _gate("own", f"{SHORT}}}", "accuracy: 0.7"), _gate("other", f"{FIXED}, target: bright}}")
    found = _run(laid, *((other, own) if first else (own, other)))
    assert found["other"].metrics["attack_success"].successes == 8
    assert found["own"].metrics["attack_success"].successes == 0
    assert found["own"].verdict == "error"
    evidence = {check.name: check.evidence for check in found["own"].health}
    assert evidence["as-strong-as-other-patches"] == (
        "other turned 8 of 20 samples that this gate attacked, and this gate 0"
    )
    assert evidence["holds-against-others"] == (
        "other turned 8 of 20 samples that this gate attacked, and with these in place of its own it fails"
    )
    assert found["own"].error.endswith("raise the attack's steps, draws or restarts")
    assert found["other"].verdict == "pass"


@pytest.mark.parametrize("size", ["8.0 px", "8 px"])
def test_a_size_is_the_same_however_it_is_written(size, laid):
    own, other = _gate("own", f"{SHORT}}}", "accuracy: 0.7"), _gate("other", f"{FIXED}, target: bright}}", size=size)
    assert _outcomes(_run(laid, own, other)["own"]) == {
        "as-strong-as-other-patches": "broken",
        "holds-against-others": "broken",
    }


def test_in_place_of_a_patch_its_scores_are_not_kept(patched):
    """Either patch alone leaves all dark images darker than all bright ones; what both do together would not."""
    patch_archive(patched, test=[20] * 7 + [120, 135] + [240] * 11, train=(110, 115, 121, 134, 140, 145))
    own = _gate("own", f"{FIXED}}}", "auroc: 0.995", size="4 px")
    others = [_gate(label, f"{FIXED}, target: {label}}}", size="4 px") for label in ("dark", "bright")]
    found = _run(patched, own, *others)
    assert {name: gate.metrics["attack_success"].successes for name, gate in found.items()} == {
        "own": 1, "dark": 1, "bright": 1
    }  # fmt: skip
    assert (found["own"].verdict, found["own"].error) == ("pass", None)


def test_one_patch_for_all_images_is_not_two(laid):
    """What this gate turned and what the other one did are of two patches: together they would leave nothing."""
    own, other = _gate("own", f"{FIXED}}}", "accuracy: 0.35"), _gate("other", f"{FIXED}, target: bright}}")
    found = _run(laid, own, other)
    assert found["own"].metrics["attack_success"].successes == 12
    assert found["other"].metrics["attack_success"].successes == 8
    assert found["own"].verdict == "pass", found["own"].error
    assert _outcomes(found["own"]) == {"as-strong-as-other-patches": "sound"}


def test_a_patch_for_each_image_may_be_that_for_all(laid):
    own = _gate("own", f"{SHORT}, target: bright, universal: false}}", "accuracy: 0.7")
    found = _run(laid, own, _gate("other", f"{GIVEN}, target: bright}}"))
    assert _outcomes(found["own"]) == {"as-strong-as-other-patches": "broken", "holds-against-others": "broken"}
    assert "other turned 8 of 8 samples that held in this gate, which fails with these" in str(found["own"].health)
    warned = _run(laid, own, _gate("other", f"{GIVEN}, target: bright}}"), extra="health: warn")
    assert warned["own"].verdict == "pass"


def test_a_larger_patch_that_turns_clearly_fewer_is_told(laid):
    small, large = (
        _gate("small", f"{FIXED}, target: bright}}"),
        _gate("large", f"{SHORT}, target: bright}}", "accuracy: 0.7", size="9 px"),
    )
    found = _run(laid, large, small)
    assert found["large"].verdict == "pass", "what the small one turned would leave 12 of 20"
    assert _outcomes(found["large"]) == {"grows-with-size": "suspect"}
    assert "grows-with-size" in [finding.code for finding in found["large"].findings]
    assert _outcomes(found["small"]) == {}


def test_gates_wait_for_those_that_may_do_no_more_and_for_none_that_waits_for_them(laid):
    """Those whose patches are laid otherwise, or on other samples, wait for nobody."""
    attacks = {
        "any": f"{FIXED}}}",
        "bright": f"{FIXED}, target: bright}}",
        "dark": f"{FIXED}, target: dark}}",
        "longer": f"{FIXED.replace('steps: 20', 'steps: 30')}, target: dark}}",
        "each": f"{FIXED}, universal: false}}",
        "given": f"{GIVEN}}}",
        "stolen": f"{FIXED}, target: dark, surrogate: brightness.safetensors}}",
        "often": f"{FIXED}, worst_of: 3}}",
        "round": f"{FIXED.replace('square', 'circle')}}}",
        "half": f"{FIXED}, train_on: 0.5}}",
        "out": f"{FIXED}, keep_out: [[0, 0, 0.1, 0.1]]}}",
    }
    gates = [_gate(name, attack) for name, attack in attacks.items()]
    gates += [_gate("less", f"{FIXED}, target: dark}}", size="7 px"), _gate("share", f"{FIXED}}}", size="10%")]
    gates += [_gate("less-share", f"{FIXED}}}", size="9%"), _gate("more-share", f"{FIXED}}}", size="11%")]
    gates += [_gate("seen", f"{FIXED}}}", more=", conditions: {brightness: 0.1}")]
    (laid / "policy.yaml").write_text(brightness_policy("".join(gates)))
    every = load_policy(laid / "policy.yaml").gates
    waits = {own.id: {one.id for one in every if comparable(own, one, isolated=False)} for own in every}
    targeted = {"bright", "dark", "longer", "stolen"}
    assert waits == {
        "any": targeted | {"given"},
        "bright": set(),
        "dark": {"stolen", "less"},
        "longer": {"stolen", "less"},
        "each": targeted | {"given", "any"},
        "given": set(),
        "stolen": set(),
        "often": targeted | {"given", "any"},
        "share": {"less-share"},
        "more-share": {"share", "less-share"},
        **{name: set() for name in ("round", "half", "out", "less", "less-share", "seen")},
    }
    for one, other in permutations(waits, 2):
        assert not (one in waits[other] and other in waits[one])


# --- results alone ---------------------------------------------------------------------------------------------------


def _result(name, statuses, success=None, *, size="8 px", universal=True):
    """A gate of a patch whose samples had these statuses: None was not attacked; `success` is of those that were."""
    samples = tuple(
        Outcome(
            sample=f"test/{number}",
            label="bright",
            clean="bright",
            attacked="dark" if status == "broken" else "bright",
            status=status or "wrong",
            evidence=None if status is None else "searched",
        )
        for number, status in enumerate(statuses)
    )
    return GateResult(
        id=name,
        attack="patch",
        parameters={"universal": universal},
        threat=Threat(goal="untargeted", knowledge="white-box", capability="patch", size=size),
        verdict="pass",
        metrics={} if success is None else {"attack_success": success},
        samples=samples,
    )


def _turned(turned, of):
    """Statuses of which so many were turned."""
    return ["broken"] * turned + ["held"] * (of - turned)


def _checked(own, other):
    """The checks of a gate beside another one, which would fail with any sample more."""
    checks = beside_patches(own, [other], lambda lost, **_: "fail" if lost else "pass")
    return {check.name: (check.outcome, check.evidence) for check in checks}


OURS = Metric(value=0.15, low=0.05, high=0.36, successes=3, samples=20)


@pytest.mark.parametrize(("size", "name"), [("8 px", "as-strong-as-other-patches"), ("7 px", "grows-with-size")])
@pytest.mark.parametrize(
    ("low", "value", "turned", "of", "more"),
    [
        (0.37, 0.5, 10, 20, True),
        (0.35, 0.5, 10, 20, False),  # its low end is above what this gate turned, and not above its high end
        (0.37, 0.5, 3, 20, False),  # no more than this gate turned
        (0.73, 0.8, 8, 10, True),  # of half of the samples: it is as if the others had been left
        (0.71, 0.8, 8, 10, False),
        (0.40, 1.0, 4, 4, False),
    ],
)
def test_how_much_another_patch_has_to_turn(low, value, turned, of, more, size, name):
    success = Metric(value=value, low=low, high=1.0, successes=turned, samples=of)
    checks = _checked(_result("own", _turned(3, 20), OURS), _result("other", _turned(turned, of), success, size=size))
    evidence = f"other turned {turned} of 20 samples that this gate attacked, and this gate 3"
    assert checks[name] == ((("broken" if size == "8 px" else "suspect") if more else "sound"), evidence)


def test_what_another_patch_turned_elsewhere_is_not_counted():
    """Of samples that are wrong before, or that this gate does not attack."""
    own, theirs = _result("own", [*_turned(3, 20), *[None] * 10], OURS), _turned(3, 20) + _turned(10, 10)
    success = Metric(value=0.43, low=0.4, high=0.6, successes=13, samples=30)
    outcome, evidence = _checked(own, _result("other", theirs, success))["as-strong-as-other-patches"]
    assert outcome == "sound"
    assert evidence.startswith("other turned 3 of 20 samples that this gate attacked")


def test_with_a_patch_for_each_image_what_both_turned_is_no_news():
    same, more = (_result("other", _turned(count, 20), OURS, universal=False) for count in (3, 4))
    own = _result("own", _turned(3, 20), OURS, universal=False)
    assert "holds-against-others" not in _checked(own, same)
    assert _checked(own, more)["holds-against-others"] == (
        "broken",
        "other turned 1 of 17 samples that held in this gate, which fails with these",
    )


def test_with_one_patch_for_all_images_what_another_turned_is_told_in_place_of_its_own():
    own, other = (_result(name, _turned(count, 20), OURS) for name, count in (("own", 3), ("other", 4)))
    assert _checked(own, other)["holds-against-others"] == (
        "broken",
        "other turned 4 of 20 samples that this gate attacked, and with these in place of its own it fails",
    )


@pytest.mark.parametrize("nothing", [None, Metric(value=None, samples=0), Metric(value=0.5, samples=20, successes=10)])
@pytest.mark.parametrize("whose", ["own", "other"])
def test_a_patch_of_which_nothing_was_measured_is_not_examined(nothing, whose):
    own = _result("own", _turned(0, 20), nothing if whose == "own" else OURS)
    other = _result("other", _turned(0, 20), nothing if whose == "other" else OURS)
    assert _checked(own, other) == {"as-strong-as-other-patches": ("not examined", "other attacked no sample")}


def test_a_patch_whose_gate_ended_before_anything_was_known_of_it_is_no_measure():
    other = replace(_result("other", _turned(9, 20), OURS), threat=None)
    assert _checked(_result("own", _turned(0, 20), OURS), other) == {}
