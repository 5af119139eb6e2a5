"""Attacks on models of the adversary's own, judged on the candidate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from building import LEVELS, accuracy_at, brightness_gates, brightness_policy, brightness_project, flat_images
from halves import NETS, halves
from safetensors.torch import save_file
from torch import nn

from robustcheck import load_policy, run
from robustcheck.attacks import DiversePGD, objective
from robustcheck.attacks.draws import Draws, key
from robustcheck.evaluation import gates
from robustcheck.threats import Goal, LinfBall

SURROGATE = "{path: other.safetensors, architecture: 'brightness:Brightness'}"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    brightness_project(tmp_path)
    for name, threshold in (("other", 0.5), ("high", 0.55), ("blind", 2.0)):
        save_file({"threshold": torch.tensor(threshold)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def _gates(project, *attacks, epsilon="4/255", model=""):
    gates = "".join(
        f"\n  - {{id: gate-{number}, attack: {attack}, epsilon: {epsilon}, require: {{accuracy: 0}}}}"
        for number, attack in enumerate(attacks)
    )
    return brightness_gates(project, gates + "\n", model=model)


def _turned(gate):
    return {LEVELS[index] for index, outcome in enumerate(gate.samples) if outcome.status == "broken"}


@pytest.mark.parametrize("surrogate", [SURROGATE, "other.safetensors", f"[{SURROGATE}, other.safetensors]"])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_what_turns_a_surrogate_that_is_alike_turns_the_candidate(surrogate, loss, project):
    (gate,) = _gates(project, f"{{name: transfer, surrogate: {surrogate}, loss: {loss}}}")
    assert gate.metrics["accuracy"].value == accuracy_at(4)
    assert _turned(gate) == {level for level in LEVELS if abs(level - 127.5) <= 4}
    assert gate.threat.knowledge == "transfer"
    assert gate.threat.queries is None
    assert not gate.query_curve


def test_the_report_says_how_good_a_stand_in_each_surrogate_is(project):
    high, blind = _gates(
        project, "{name: transfer, surrogate: high.safetensors}", "{name: transfer, surrogate: blind.safetensors}"
    )
    (surrogate,) = high.surrogates
    assert surrogate.path == "high.safetensors"
    assert surrogate.trained is None
    right = sum((level / 255 > 0.55) == (level > 127.5) for level in LEVELS)
    assert (surrogate.accuracy.successes, surrogate.agreement.successes) == (right, right)
    assert surrogate.accuracy.samples == len(LEVELS)
    assert (surrogate.agreement_attacked.successes, surrogate.agreement_attacked.samples) == (right, len(LEVELS))
    assert (surrogate.turned.successes, surrogate.turned.samples) == (0, right), "what it misread before is not turned"
    (surrogate,) = blind.surrogates
    assert surrogate.agreement.value == 0.5
    codes = [finding.code for finding in blind.findings]
    assert "poor-surrogate" in codes
    (message,) = [finding.message for finding in blind.findings if finding.code == "poor-surrogate"]
    assert message.startswith("the surrogate blind.safetensors reads only 5 of 10 samples as the candidate does")


def test_a_surrogate_that_the_attack_does_not_turn_is_no_sign_of_a_robust_candidate(project):
    save_file({"threshold": torch.tensor(0.5)}, project / "far.safetensors")
    flat_images(project, (60, 70, 180, 200), [0, 0, 1, 1])
    (gate,) = _gates(project, "{name: transfer, surrogate: far.safetensors}")
    (finding,) = [finding for finding in gate.findings if finding.code == "surrogate-not-turned"]
    assert finding.severity == "warning"
    assert "turned 0 of 4 samples on the surrogate far.safetensors itself" in finding.message


def test_of_a_ladder_each_rung_counts_what_it_searched(project):
    """The second one leaves what the first one turned on the candidate, though not on the surrogate."""
    flat_images(project, (60, 70, 126, 126, 180, 200), [0, 0, 0, 0, 1, 1])
    gate = (
        "  - {id: gate, attack: {name: transfer, surrogate: high.safetensors}, epsilon: [2/255, 8/255], require: R}\n"
    )
    gates = brightness_gates(project, gate.replace("R}", "{accuracy: 0}}"))
    assert [gate.metrics["attack_success"].successes for gate in gates] == [2, 2]
    told = [one.message.partition(" on ")[0] for gate in gates for one in gate.findings if "not-turned" in one.code]
    assert told == ["the attack turned 0 of 6 samples", "the attack turned 0 of 4 samples"]


@pytest.mark.parametrize(
    ("surrogate", "levels", "code"),
    [
        ("other", (60, 126, 129, 200), None),  # two of four are turned
        ("other", (60, 70, 126, 129, 200), "surrogate-not-turned"),
        ("high", (124, 126, 130, 145), None),  # three of four are read alike
        ("high", (126, 130, 145), "poor-surrogate"),
    ],
)
def test_a_surrogate_may_just_be_good_enough(surrogate, levels, code, project):
    flat_images(project, levels, [int(level > 127.5) for level in levels])
    (gate,) = _gates(
        project,
        f"{{name: transfer, surrogate: {surrogate}.safetensors}}",
        epsilon="20/255" if surrogate == "high" else "4/255",
    )
    assert [one.code for one in gate.findings if "surrogate" in one.code] == ([] if code is None else [code])


RARE = (60, 70, 80, 90, 100, 105, 110, 113, 116, 118, 120, 121, 122, 123, 124, 125, 126, 129, 131)


@pytest.mark.parametrize("others", ["", ", other.safetensors"])
def test_a_surrogate_that_reads_everything_as_the_frequent_label_is_warned_of(others, project):
    """It agrees on nearly all samples, and misreads those that are attacked without any search."""
    flat_images(project, RARE, [int(level > 127.5) for level in RARE])
    attack = f"{{name: transfer, surrogate: [blind.safetensors{others}]}}"
    gates = f"  - {{id: gate, attack: {attack}, epsilon: 4/255, goal: missed_finding, require: {{sensitivity: 0}}}}"
    (gate,) = brightness_gates(project, gates)
    blind, found = gate.surrogates[0], {finding.code: finding.message for finding in gate.findings}
    assert (blind.agreement.successes, blind.agreement.samples) == (17, 19)
    assert (blind.agreement_attacked.successes, blind.agreement_attacked.samples) == (0, 2)
    assert (blind.turned.value, blind.turned.samples) == (None, 0)
    assert "blind.safetensors reads only 0 of the 2 attacked samples correctly before the" in found["poor-surrogate"]
    assert "turned 0 of 2 samples on the surrogate" in found["surrogate-not-turned"]
    assert "(2 were misread there before it)" in found["surrogate-not-turned"]


@pytest.mark.parametrize("restarts", [1, 3])
def test_the_candidate_is_asked_about_the_ends_of_searches_and_nothing_else(restarts, project, monkeypatch):
    asked = []
    run_gate = gates.run_gate

    def tapped(gate, setting, **kwargs):
        forward = setting.candidate.network.forward

        def count(inputs):
            asked.append(len(inputs))
            return forward(inputs)

        network = replace(setting.candidate.network, forward=count)
        return run_gate(gate, replace(setting, candidate=replace(setting.candidate, network=network)), **kwargs)

    monkeypatch.setattr("robustcheck.evaluation.evaluation.run_gate", tapped)
    (gate,) = _gates(project, f"{{name: transfer, surrogate: high.safetensors, restarts: {restarts}, steps: 7}}")
    held = sum(outcome.status == "held" for outcome in gate.samples)
    broken = [outcome for outcome in gate.samples if outcome.status == "broken"]
    assert sum(asked) == restarts * held + sum(outcome.restart + 1 for outcome in broken)
    assert gate.cost.gradient == 7 * sum(asked)


def test_surrogates_are_loaded_once_for_a_ladder_and_share_with_their_own_gates_only(project, monkeypatch):
    from robustcheck.evaluation.surrogates import loading

    loads = []
    load = loading.load_candidate
    monkeypatch.setattr(loading, "load_candidate", lambda *a, **k: (loads.append(1), load(*a, **k))[1])
    small, large = _gates(project, "{name: transfer, surrogate: other.safetensors}", epsilon="[2/255, 4/255]")
    assert len(loads) == 1
    assert {outcome.found_by for outcome in large.samples if outcome.status == "broken"} == {small.id, large.id}
    one, other = _gates(
        project, "{name: transfer, surrogate: other.safetensors}", "{name: transfer, surrogate: high.safetensors}"
    )
    assert {outcome.found_by for outcome in other.samples if outcome.status == "broken"} == {other.id}
    assert _turned(one) == _turned(other), "brightness is raised whatever the threshold"


def test_a_trained_surrogate_turns_samples_of_a_candidate_that_it_never_saw(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "nets.py").write_text(NETS)
    save_file({"weight": torch.ones(1)}, tmp_path / "candidate.safetensors")
    train, test = halves(120, 0), halves(20, 1)
    np.savez(
        tmp_path / "halves.npz",
        train_images=train[0], train_labels=train[1], test_images=test[0], test_labels=test[1],
    )  # fmt: skip
    (tmp_path / "policy.yaml").write_text(
        """
robustcheck: 1
model: {path: candidate.safetensors, architecture: "nets:Halves", task: multiclass, labels: [left, right]}
data: {source: halves.npz}
gates:
  - id: data
    attack: {name: transfer, train: {architecture: "nets:small", epochs: 8, learning_rate: 0.02}}
    epsilon: 60/255
    require: {accuracy: 0}
  - id: stolen
    attack:
      name: transfer
      train: {architecture: "nets:small", epochs: 8, learning_rate: 0.02, labels: candidate, queries: 80}
    epsilon: 60/255
    require: {accuracy: 0}
"""
    )
    data, stolen = run(load_policy(tmp_path / "policy.yaml"), folder=tmp_path / "out").gates
    told = "120 images of the train split", "the candidate's own answers about 80 images"
    for gate, words in zip((data, stolen), told, strict=True):
        (surrogate,) = gate.surrogates
        assert words in surrogate.trained
        assert surrogate.path == "nets:small"
        assert surrogate.accuracy.value > 0.9
        assert surrogate.agreement.value > 0.9
        assert gate.metrics["accuracy"].value < 0.7


def test_a_surrogate_that_cannot_be_used_makes_its_own_gate_an_error(project):
    save_file({"weight": torch.ones(3)}, project / "strange.safetensors")
    strange, fine = _gates(
        project, "{name: transfer, surrogate: strange.safetensors}", "{name: transfer, surrogate: other.safetensors}"
    )
    assert strange.verdict == "error"
    assert strange.error.startswith("surrogate strange.safetensors: the weights in strange.safetensors are not those")
    assert fine.verdict == "pass"


def test_a_surrogate_that_failed_is_not_tried_again(project, monkeypatch):
    from robustcheck.evaluation import opening

    tries = []
    load = opening.load_surrogates
    monkeypatch.setattr(opening, "load_surrogates", lambda *a, **k: (tries.append(1), load(*a, **k))[1])
    save_file({"weight": torch.ones(3)}, project / "strange.safetensors")
    gates = _gates(project, "{name: transfer, surrogate: strange.safetensors}", epsilon="[2/255, 4/255]")
    assert {gate.verdict for gate in gates} == {"error"}
    assert len(tries) == 1


_TEMPLATES = """
import torch

class Template(torch.nn.Module):  # bright if it is so along a template of -1 and 1
    def __init__(self):
        super().__init__()
        self.template = torch.nn.Parameter(torch.zeros(8, 8))

    def forward(self, image):
        excess = ((image - 128 / 255) * self.template).flatten(1).mean(dim=1)
        return torch.stack([-excess, excess], dim=1)
"""


@pytest.mark.parametrize("candidate", ["first", "second"])
@pytest.mark.parametrize("louder", ["first", "second"])
def test_of_several_surrogates_each_is_followed_however_large_its_logits_are(candidate, louder, project):
    """Two templates that agree on half of the pixels: along one of them alone the other is not turned at all."""
    (project / "brightness.py").write_text(_TEMPLATES)
    across, down = torch.ones(8, 8), torch.ones(8, 8)
    across[:, 1::2] = down[1::2] = -1
    for name, template in (("first", across), ("second", down)):
        save_file({"template": template * (100 if name == louder else 1)}, project / f"{name}.safetensors")
    apart = 2 * (across + down).numpy()  # 2 levels beyond the border of both on average: 4 where they agree
    images = np.stack([128 + apart, 128 - apart]).astype(np.uint8)
    np.savez(project / "flat.npz", test_images=images, test_labels=np.array([[1], [0]]))
    surrogates = ", ".join(
        f"{{path: {name}.safetensors, architecture: 'brightness:Template'}}" for name in ("first", "second")
    )
    attack = f"{{name: transfer, surrogate: [{surrogates}], diversity: 0, steps: 10}}"
    policy = brightness_policy(f"  - {{id: gate, attack: {attack}, epsilon: 6/255, require: {{accuracy: 0}}}}\n")
    policy = policy.replace("path: brightness.", f"path: {candidate}.").replace(":Brightness", ":Template")
    (project / "policy.yaml").write_text(policy)
    (found,) = run(load_policy(project / "policy.yaml"), folder=project / "out").gates
    assert found.metrics["accuracy"].value == 0


# --- the attack itself ---


def _diverse(steps=5, **parameters):
    return DiversePGD(
        objective=objective("margin", Goal(labels=2)), steps=steps, restarts=1, step_share=0.01, random_start=False,
        momentum=1.0, **parameters,
    )  # fmt: skip


def _draws(count):
    return Draws.of([key(0, "gate", str(row), 0) for row in range(count)], torch.device("cpu"))


def test_views_are_shrunk_and_shifted_on_black_and_stay_in_the_range():
    images = torch.ones(200, 1, 20, 20)
    views = _diverse(diversity=1.0, smallest=0.7)._view(images, _draws(200), 1)
    assert views.shape == images.shape
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6
    shares = views.mean(dim=(1, 2, 3))  # of the area that the image still covers
    assert 0.7**2 - 0.05 < shares.min() < 0.6
    assert 0.9 < shares.max() <= 1 + 1e-6
    rows = views.sum(dim=(1, 3))
    first = rows.gt(0.5).float().argmax(dim=1)
    assert first.min() == 0
    assert first.max() > 2, "shifted, not only shrunk"


def test_how_many_views_differ_from_the_image_is_what_was_asked_for():
    images = torch.rand(400, 1, 12, 12)
    for diversity in (0.0, 0.5, 1.0):
        views = _diverse(diversity=diversity)._view(images, _draws(400), 1)
        changed = ((views - images).abs().flatten(1).amax(dim=1) > 1e-3).float().mean()
        assert abs(changed - diversity) < 0.1
    torch.testing.assert_close(_diverse(diversity=0.0)._view(images, _draws(400), 1), images, atol=1e-5, rtol=0)


def test_the_step_follows_the_gradient_of_what_the_models_see():
    """Carried back to the point, checked against finite differences through the view."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    attack, ball = _diverse(diversity=1.0), LinfBall(levels=30, maximum=255)
    clean, draws = torch.rand(3, 1, 8, 8), _draws(3)
    state = attack.start(clean, clean, ball, draws)

    def seen(points):
        return network(attack._view(points, draws, 1).double()).squeeze(1)

    view = state["images"].double().requires_grad_()
    (gradient,) = torch.autograd.grad(network(view).sum(), view)
    from robustcheck.attacks import Told

    told = Told(step=torch.zeros(3, dtype=torch.int64), loss=torch.zeros(3), fooled=torch.zeros(3, dtype=torch.bool),
                gradient=gradient.float())  # fmt: skip
    moved = attack.step(state, told, clean, ball, draws)
    # What the models see next is the view that the next step carries its gradient back through.
    assert torch.equal(moved["images"], attack._view(moved["point"], draws, 2))
    assert attack.best(moved) is moved["point"], "which is proposed as it is"
    step, checked = moved["point"] - clean, 0
    for row in range(3):
        for pixel in (0, 9, 27, 63):
            offset = torch.zeros_like(clean)
            offset[row].view(-1)[pixel] = 1e-2
            slope = float((seen(clean + offset) - seen(clean - offset))[row].detach())
            if abs(slope) > 1e-5 and 0.02 < float(clean[row].view(-1)[pixel]) < 0.98:
                assert np.sign(slope) == np.sign(float(step[row].view(-1)[pixel]))
                checked += 1
    assert checked >= 8
