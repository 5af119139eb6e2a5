"""Patches and viewing conditions on the shipped candidates and real chest X-rays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chest import POLICIES, gates_on_xrays
from PIL import Image

from robustcheck.attacks.draws import Draws
from robustcheck.data import load_samples
from robustcheck.models import load_candidate
from robustcheck.policy import ConditionsSpec, DataSpec, ModelSpec, PreprocessSpec
from robustcheck.threats.viewing import LOOK_DRAWS, Conditions, see

pytestmark = pytest.mark.xrays

LABELS = ("normal", "pneumonia")
CONDITIONS = {"rotation": 10, "scale": 0.1, "translation": 0.05, "brightness": 0.1, "contrast": 0.2, "blur": 0.5}


def _patch(target, size, **parameters):
    parameters = {"steps": 150, **parameters}
    return {"id": f"{target}", "attack": {"name": "patch", "target": target, **parameters}, "size": size}


@pytest.mark.parametrize("target", LABELS)
def test_larger_patches_turn_more_and_controls_fewer(target, tmp_path, xrays):
    gates = gates_on_xrays(tmp_path, xrays, "standard", [_patch(target, ["2%", "10%", "20%"])], samples=200)
    success = [gate.metrics["attack_success"].value for gate in gates.values()]
    assert success[0] + 0.2 < success[1] < success[2] - 0.2
    assert success[2] > 0.9
    for gate in gates.values():
        assert gate.metrics["control_success"].value < gate.metrics["attack_success"].value
    assert list(gates.values())[2].metrics["excess_success"].value > 0.5


def test_an_onnx_candidate_is_searched_through_its_twin_and_judged_by_its_runtime(tmp_path, xrays):
    shares = {}
    for suffix in (".safetensors", ".onnx"):
        (gate,) = gates_on_xrays(
            tmp_path, xrays, "standard", [_patch("normal", "15%")], samples=100, suffix=suffix
        ).values()
        assert gate.cost.gradient > 0
        shares[suffix] = gate.metrics["attack_success"].value
    assert shares[".onnx"] == pytest.approx(shares[".safetensors"], abs=0.06)


def test_a_patch_that_a_hardened_network_taught_turns_more_than_its_controls(tmp_path, xrays):
    surrogate = {"path": str(POLICIES / "candidates" / "pneumonia_hardened.safetensors")}
    (gate,) = gates_on_xrays(
        tmp_path, xrays, "standard", [_patch("normal", "15%", surrogate=surrogate)], samples=200
    ).values()
    assert gate.threat.knowledge == "transfer"
    assert gate.metrics["excess_success"].value > 0.1
    assert gate.surrogates[0].agreement.value > 0.8


def test_what_is_searched_over_looks_holds_on_fresh_ones_and_what_is_not_does_on_fewer(tmp_path, xrays):
    plain = {"id": "pgd", "attack": "pgd", "epsilon": "16/255"}
    held = {}
    for name, gate in {"plain": plain, "seen": {**plain, "conditions": CONDITIONS}}.items():
        (found,) = gates_on_xrays(tmp_path, xrays, "standard", [gate], samples=40).values()
        images = {
            outcome.sample: (LABELS.index(outcome.label), tmp_path / "out" / outcome.counterexample)
            for outcome in found.samples
            if outcome.counterexample
        }
        assert len(images) > 25
        held[name] = _shares(xrays, images)
    assert held["seen"].mean() >= 0.9
    assert (held["seen"] >= 0.85).mean() >= 0.9
    assert held["plain"].mean() < held["seen"].mean() - 0.1
    assert (held["plain"] >= 0.9).mean() < 0.5


def _shares(xrays, images):
    """On how many of 200 looks that neither a search nor a gate has had each image is read wrongly."""
    model = ModelSpec(
        path=str(POLICIES / "candidates" / "pneumonia_standard.safetensors"),
        architecture="networks:chest_cnn",
        task="multiclass",
        labels=LABELS,
        positive="pneumonia",
        preprocess=PreprocessSpec(mean=0.5, std=0.25),
        device="cpu",
    )
    samples = load_samples(DataSpec(source=str(xrays), samples=8), model, folder=POLICIES)
    candidate, _ = load_candidate(model, folder=POLICIES, samples=samples)
    looks = Conditions(spec=ConditionsSpec(**CONDITIONS)).draw(
        Draws.of([20261125], torch.device("cpu")).uniform((200, LOOK_DRAWS))[0]
    )
    shares = []
    for label, file in images.values():
        image = torch.from_numpy(np.asarray(Image.open(file), np.float32) / 255).expand(200, 1, -1, -1)
        seen = (see(image, looks) * 255).round() / 255
        shares.append(float((candidate.head.decide(candidate.logits(seen)) != label).float().mean()))
    return np.array(shares)
