"""Gates on ONNX candidates: the verdicts are ONNX Runtime's, and those of the PyTorch file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from building import accuracy_at, brightness_policy, brightness_project, evaluation_of
from onnxruntime import quantization
from safetensors.torch import load_file
from seeing import Brightness

from robustcheck import load_policy, run
from robustcheck.models import Candidate
from robustcheck.models.twin import make_twin

POLICIES = Path(__file__).parents[2] / "policies"
GATES = "\n  - {id: gate, attack: {name: pgd, steps: 5}, epsilon: [1/255, 2/255, 4/255], require: {accuracy: 0}}\n"


def _export(network, example, path):
    torch.onnx.export(
        network.eval(), (example,), str(path), dynamo=False, input_names=["image"], output_names=["scores"],
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
    )  # fmt: skip


@pytest.fixture
def project(tmp_path):
    brightness_project(tmp_path)
    (tmp_path / "out").mkdir()
    _export(Brightness(), torch.rand(2, 1, 8, 8), tmp_path / "brightness.onnx")
    text = brightness_policy(GATES).replace("brightness.safetensors", "brightness.onnx")
    (tmp_path / "policy.yaml").write_text("\n".join(line for line in text.splitlines() if "architecture" not in line))
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("by", [0.3, -0.3])
def test_where_the_twin_is_wrong_the_search_goes_on_and_the_report_counts(project, by):
    """The twin takes images for brighter, or darker, than ONNX Runtime does; by two levels."""

    def shifted(candidate: Candidate) -> Candidate:
        network, twin = candidate.network, candidate.network.twin
        wrong = replace(network, twin=lambda image: twin(image) + torch.tensor([-by / 2, by / 2]))
        return replace(candidate, network=wrong, search_form=None)

    evaluation = evaluation_of(project / "policy.yaml", project / "out", shifted)
    gates = [evaluation.gate(gate.id) for gate in evaluation.policy.gates]
    assert [gate.metrics["accuracy"].value for gate in gates] == [accuracy_at(levels) for levels in (1, 2, 4)]
    counted = [finding for gate in gates for finding in gate.findings if finding.code == "twin-disagreed"]
    assert counted
    assert "not by ONNX Runtime, whose verdict counts" in counted[0].message


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_attack_that_asks_for_scores_needs_no_twin(project, monkeypatch):
    from robustcheck.models.twin import NoTwinError, convert

    def none(_model):
        raise NoTwinError("its operator Secret (opset 9) has no differentiable form here; ask instead")

    monkeypatch.setattr(convert, "converted", none)
    text = (project / "policy.yaml").read_text()
    square = "  - {id: square, attack: square, queries: 300, epsilon: 4/255, require: {accuracy: 0}}\n"
    (project / "policy.yaml").write_text(text + "\n" + square)
    *white, black = run(load_policy(project / "policy.yaml"), folder=project / "out").gates
    assert {gate.verdict for gate in white} == {"error"}
    assert "Secret (opset 9)" in white[0].error
    assert black.verdict == "pass"
    assert black.metrics["accuracy"].value == accuracy_at(4)


@pytest.mark.xrays
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["standard", "hardened"])
def test_the_export_gets_the_verdicts_of_the_pytorch_file(kind, xrays, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(POLICIES))
    from networks import chest_cnn

    network = chest_cnn()
    weights = POLICIES / "candidates" / f"pneumonia_{kind}.safetensors"
    network.load_state_dict(load_file(weights))
    _export(network, torch.rand(2, 1, 28, 28), tmp_path / "candidate.onnx")
    (tmp_path / "networks.py").write_bytes((POLICIES / "networks.py").read_bytes())
    model = {
        "task": "multiclass",
        "labels": ["normal", "pneumonia"],
        "positive": "pneumonia",
        "preprocess": {"mean": 0.5, "std": 0.25},
        "device": "cpu",
    }
    of_torch = {"path": str(weights), "architecture": "networks:chest_cnn"}
    statuses = []
    for name, file in (("torch", of_torch), ("onnx", {"path": "candidate.onnx"})):
        policy = {
            "robustcheck": 1,
            "model": {**model, **file},
            "data": {"source": str(xrays), "samples": 312},
            "gates": [
                {"id": "pgd", "attack": {"name": "pgd", "steps": 10}, "epsilon": ["2/255", "4/255"],
                 "require": {"accuracy": 0}},
            ],
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(policy))
        report = run(load_policy(tmp_path / f"{name}.yaml"), folder=tmp_path / name)
        statuses.append([outcome.status for gate in report.gates for outcome in gate.samples])
    differ = sum(ours != theirs for ours, theirs in zip(*statuses, strict=True))
    assert len(statuses[0]) == 2 * 312
    assert differ <= 1


@pytest.mark.xrays
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", ["QDQ", "QOperator"])
def test_gradients_of_a_quantised_network_are_those_of_the_float_one(way, xrays, tmp_path, monkeypatch):
    """Its quantisers are its ReLUs, too: gradients that pass where those are closed lead astray."""
    monkeypatch.syspath_prepend(str(POLICIES))
    from networks import chest_cnn

    class Normalised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = chest_cnn()
            self.network.load_state_dict(load_file(POLICIES / "candidates" / "pneumonia_standard.safetensors"))

        def forward(self, image):
            return self.network((image - 0.5) / 0.25)

    network = Normalised()
    _export(network, torch.rand(2, 1, 28, 28), tmp_path / "float.onnx")
    images = torch.from_numpy(np.load(xrays)["train_images"][:64, None]).float() / 255

    class Calibration(quantization.CalibrationDataReader):
        def __init__(self):
            self.images = iter([{"image": image[None].numpy()} for image in images])

        def get_next(self):
            return next(self.images, None)

    path = tmp_path / "quantised.onnx"
    quantization.quantize_static(
        tmp_path / "float.onnx",
        path,
        Calibration(),
        quant_format=quantization.QuantFormat[way],
        per_channel=way == "QDQ",
    )
    twin = make_twin(path, "scores", torch.device("cpu"))
    assert twin.rounds
    gradients = []
    for form in (network, twin.module):
        inputs = images.clone().requires_grad_()
        scores = form(inputs)
        gradients.append(torch.autograd.grad((scores[:, 1] - scores[:, 0]).sum(), inputs)[0].flatten(1))
    cosine = torch.nn.functional.cosine_similarity(*gradients)
    assert cosine.mean() > 0.95
