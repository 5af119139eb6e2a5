"""Searches that ask another form of the network than the one that judges, and that form is wrong near the border."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from building import (
    LEVELS,
    accuracy_at,
    brightness_gates,
    brightness_policy,
    brightness_project,
    evaluation_of,
    flat_images,
)

from robustcheck import load_policy, run
from robustcheck.attacks import build
from robustcheck.evaluation.planning.workload import column
from robustcheck.evaluation.search import warm_starts
from robustcheck.evaluation.search.recording import Recorder
from robustcheck.evaluation.search.searching import Search
from robustcheck.evaluation.search.warm_starts import Ends, WarmStarts
from robustcheck.models import Candidate
from robustcheck.models import candidate as candidates
from robustcheck.models.fast import fast_form
from robustcheck.policy import NoiseSpec

POLICIES = Path(__file__).parents[2] / "policies"
LADDER = """gates:
  - {id: pgd, attack: {name: pgd, steps: 10}, epsilon: [1/255, 2/255, 4/255], require: {accuracy: 0}}
"""


class Shifted(torch.nn.Module):
    """The network, and it takes images for so much brighter, in logits, than they are."""

    def __init__(self, network, by: float) -> None:
        super().__init__()
        self.network, self.by = network, by

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image) + torch.tensor([-self.by / 2, self.by / 2])


class Misled(torch.nn.Module):
    """What the network answers, with another gradient: along it the image gets no brighter."""

    def __init__(self, network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        signs = torch.ones(image.shape[-1])
        signs[::2] = -1
        excess = (image * signs).flatten(1).mean(dim=1) * 20
        other = torch.stack([-excess, excess], dim=1)
        return self.network(image).detach() + (other - other.detach())


def _gates(project, gates: str, *, by: float = 0.0, error: float, form=None, steepness=None):
    (project / "policy.yaml").write_text(brightness_policy(gates))

    def searched(candidate: Candidate) -> Candidate:
        network = candidate.network.forward
        asked = Shifted(network, by) if form is None else form(network)
        shown = candidates.SearchForm(forward=asked, head=candidate.head, error=error, steepness=steepness or {})
        return replace(candidate, search_form=shown)

    evaluation = evaluation_of(project / "policy.yaml", project / "out", searched)
    return [evaluation.gate(gate.id) for gate in evaluation.policy.gates]


@pytest.fixture
def project(tmp_path):
    brightness_project(tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path


# A level is worth 40 / 255 logits between the two labels. The form is wrong by half a level, or by three.
@pytest.mark.parametrize("by", [0.08, -0.08, 0.5, -0.5])
@pytest.mark.parametrize(
    "attack",
    [
        "fgsm",
        "{name: pgd, steps: 5}",
        "{name: pgd, steps: 40, random_start: false}",
        "{name: apgd, steps: 8}",
        "{name: apgd, steps: 8, targets: 1, loss: dlr}",
        "fmn",
    ],
)
def test_no_sample_holds_because_the_searched_form_is_wrong_near_the_border(project, attack, by):
    gates = f"\n  - {{id: gate, attack: {attack}, epsilon: [1/255, 2/255, 4/255], require: {{accuracy: 0}}}}\n"
    results = _gates(project, gates, by=by, error=abs(by))
    assert [gate.metrics["accuracy"].value for gate in results] == [accuracy_at(levels) for levels in (1, 2, 4)]


def test_whether_gradients_predict_is_told_of_those_that_searches_follow(project):
    """What comes is the artefact's, also where the form is off by two levels."""
    by = 0.3
    gates = "\n  - {id: gate, attack: {name: pgd, steps: 100}, epsilon: 4/255, require: {accuracy: 0.5}}\n"
    outcomes = {}
    for form in (lambda network: Misled(Shifted(network, by)), partial(Shifted, by=by)):
        (gate,) = _gates(project, gates, error=by, form=form)
        outcomes[form] = gate.verdict, {check.name: check for check in gate.health}["gradient-predicts"]
    (misled, check), (led, sound) = outcomes.values()
    assert (misled, check.outcome) == ("error", "broken"), check.evidence
    assert "raises the margin 1.00 times as much as the gradient says (median of 10 samples" in check.evidence
    assert "and 0.00 times at points of the ball" in check.evidence
    assert sound.outcome == "sound"
    assert led != "error"


def test_ends_take_a_byte_a_pixel_and_are_kept_for_some_samples_at_a_time(project, monkeypatch):
    gates = "\n  - {id: gate, attack: {name: pgd, steps: 5}, epsilon: 2/255, require: {accuracy: 0}}\n"
    kept, keep = list[int](), Ends.keep

    def watched(ends, sample, *more):
        keep(ends, sample, *more)
        kept.append(sum(change.nbytes for *_, change in ends._ends.values()))

    monkeypatch.setattr(Ends, "keep", watched)
    (together,) = _gates(project, gates, by=0.0, error=0.3)
    assert max(kept) > 64
    kept.clear()
    monkeypatch.setattr(warm_starts, "MOST_ENDS", 64)  # pixels, of one image
    (in_parts,) = _gates(project, gates, by=0.0, error=0.3)
    assert max(kept) == 64
    assert in_parts.samples == together.samples
    assert in_parts.cost.gradient == together.cost.gradient


def test_parts_are_as_large_as_memory_is_meant_for(monkeypatch):
    monkeypatch.setattr(warm_starts, "MOST_ENDS", 128)  # pixels, of two images
    assert list(Ends.parts([3, 5, 1, 7, 2], lambda _: (1, 8, 8))) == [[3, 5], [1, 7], [2]]
    shapes = {3: (1, 8, 8), 5: (3, 8, 8), 1: (1, 4, 8), 7: (1, 8, 8), 2: (1, 4, 8)}
    assert list(Ends.parts(list(shapes), shapes.__getitem__)) == [[3], [5], [1, 7, 2]]


def test_of_several_restarts_the_end_is_kept_that_came_nearest():
    ends = Ends()
    for restart, margin in enumerate((-2.0, -1.0, -3.0)):
        ends.keep(5, restart, margin, torch.full((1, 2, 2), float(restart - 2)))
    ends.keep(6, 0, -9.0, torch.ones(1, 2, 2))
    assert (ends.restart(5), ends.restart(6)) == (1, 0)
    places, changes = ends.known([(6, 0), (5, 1)])
    assert places.tolist() == [0, 1]
    assert changes[:, 0, 0, 0].tolist() == [1, -1]


def test_an_end_keeps_no_other_of_its_batch_in_memory():
    ends, changes = Ends(), torch.ones(4, 1, 8, 8)
    for row in range(4):
        ends.keep(row, restart=0, margin=0.0, change=changes[row])
    starts = WarmStarts(pixels=4 * 64, budgets={"entry": 2})
    starts.keep("entry", "pgd", np.arange(4), changes)
    kept = [*(change for *_, change in ends._ends.values()), *starts._changes["entry"]["pgd"].values()]
    assert len(kept) == 8
    assert all(change.base is None for change in kept), "a view would keep all of them"


@pytest.mark.parametrize("attack", ["{name: pgd, steps: 5}", "fmn"])
def test_counterexamples_are_recorded_as_their_samples_leave(project, monkeypatch, attack):
    most, found = list[int](), Recorder.keep

    def watched(nearest, hit):
        found(nearest, hit)
        most.append(len(nearest.hits))

    monkeypatch.setattr(Recorder, "keep", watched)
    gates = f"\n  - {{id: gate, attack: {attack}, epsilon: 32/255, require: {{accuracy: 0}}}}\n"
    (gate,) = brightness_gates(project, gates, model="batch_size: 2")
    assert gate.metrics["accuracy"].value == 0
    assert max(most) <= 2, "as many as are searched at a time"


class Silent(Shifted):
    """It has no answer for bright images."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores = super().forward(image)
        return torch.where(image.flatten(1).mean(dim=1, keepdim=True) > 0.4, torch.nan, scores)


def test_a_form_without_an_answer_is_near_everything(project, monkeypatch):
    monkeypatch.setattr("test_looking_closer.Shifted", Silent)
    gates = "\n  - {id: gate, attack: {name: pgd, steps: 5}, epsilon: [1/255, 4/255], require: {accuracy: 0}}\n"
    results = _gates(project, gates, by=0.0, error=0.01)
    assert [gate.metrics["accuracy"].value for gate in results] == [accuracy_at(levels) for levels in (1, 4)]


@pytest.mark.parametrize("start", ["true", "false"])
def test_a_form_that_tells_other_losses_than_the_artefact_raised_none(project, start):
    """Half of them are higher than the artefact's, by more than any rounding."""
    source = (project / "brightness.py").read_text()
    (project / "brightness.py").write_text(source.replace("(image.flatten", "(((image * 16).round() / 16).flatten"))
    attack = f"{{name: pgd, steps: 8, random_start: {start}}}"
    gates = f"\n  - {{id: gate, attack: {attack}, epsilon: 1/255, require: {{accuracy: 0}}}}\n"
    (gate,) = _gates(project, gates, by=0.08, error=0.08)
    assert [check.outcome for check in gate.health if check.name == "loss-rises"] == ["broken"]


def test_a_form_that_tells_lower_losses_than_the_artefact_may_raise_them_all_the_same(project):
    flat_images(project, range(150, 160), [1] * 10)
    gates = "\n  - {id: gate, attack: {name: pgd, steps: 8}, epsilon: 1/255, require: {accuracy: 0}}\n"
    (gate,) = _gates(project, gates, by=0.5, error=0.5)  # a level is worth less
    assert [check.outcome for check in gate.health if check.name == "loss-rises"] == ["sound"]


def test_what_is_far_from_the_border_is_not_searched_again(project):
    gates = "\n  - {id: gate, attack: {name: pgd, steps: 5}, epsilon: 1/255, require: {accuracy: 0}}\n"
    (plain,) = _gates(project, gates, by=0.0, error=0.0)
    (closer,) = _gates(project, gates, by=0.0, error=0.06)
    # At ε of a level, 129 and 126 come within half a level of the border, which is worth 0.08 logits: 3 · 0.06 is near.
    assert closer.cost.gradient == plain.cost.gradient + 2 * 5


# Three levels are worth .47 of the margin. A form that is off by .2 may be wrong about all of it.
@pytest.mark.parametrize(("error", "follows"), [(0.2, "artefact"), (0.013, "form")])
def test_where_margins_hardly_change_the_artefact_itself_is_followed(project, error, follows):
    gates = "\n  - {id: gate, attack: {name: pgd, steps: 5}, epsilon: 3/255, require: {accuracy: 0}}\n"
    (gate,) = _gates(project, gates, error=error, form=Misled, steepness={"linf": 40.0, "l2": 0.0})
    assert gate.metrics["accuracy"].value == (accuracy_at(3) if follows == "artefact" else 1), gate.metrics


class Refusing(Shifted):
    """Must not be asked."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a form was asked that shows nothing here")


@pytest.mark.parametrize("attack", ["{name: ensemble, steps: 5, queries: 20}", "{name: pgd, steps: 200}"])
def test_where_margins_hardly_change_nobody_asks_another_form(project, attack):
    """Neither do searches without gradients, nor what examines the gradient within the ball."""
    gates = f"\n  - {{id: gate, attack: {attack}, epsilon: 3/255, require: {{accuracy: 0.1}}}}\n"
    (gate,) = _gates(project, gates, error=0.2, form=partial(Refusing, by=0.0), steepness={"linf": 40.0})
    assert (gate.verdict, gate.error) == ("pass", None)
    outcomes = {check.name: check.outcome for check in gate.health}
    assert outcomes["gradient-predicts"] == "sound"


@pytest.mark.parametrize(
    ("attack", "follows"),
    [
        ("pgd", True),
        # Who follows other models sees neither the artefact nor a form of it.
        ("{name: transfer, surrogate: {path: brightness.safetensors, architecture: 'brightness:Brightness'}}", False),
    ],
)
def test_plans_know_who_follows_the_artefact(project, attack, follows):
    gates = f"\n  - {{id: gate, attack: {attack}, epsilon: 3/255, require: {{accuracy: 0}}}}\n"
    (project / "policy.yaml").write_text(brightness_policy(gates))

    def searched(candidate: Candidate) -> Candidate:
        form = candidates.SearchForm(
            forward=candidate.network.forward, head=candidate.head, error=0.2, steepness={"linf": 40.0}
        )
        return replace(candidate, search_form=form)

    evaluation = evaluation_of(project / "policy.yaml", project / "out", searched)
    search = Search.of(evaluation.policy.gates[0], evaluation.setting, shared=False)
    assert search.follows_artefact(search.attacks[0]) == follows
    assert column(search.attacks[0], search) == ("exact" if follows else "gradient")


def test_of_what_a_form_reads_as_wanted_the_most_adverse_is_judged(project):
    """An image that the artefact refutes hides no other of its turn."""
    gates = "\n  - {id: gate, attack: {name: pgd, steps: 5}, epsilon: 8/255, require: {accuracy: 0}}\n"
    (project / "policy.yaml").write_text(brightness_policy(gates))
    turned = []
    for by in (0.0, 0.15, -0.15):

        def searched(candidate: Candidate, by: float = by) -> Candidate:
            shown = candidates.SearchForm(
                forward=Shifted(candidate.network.forward, by), head=candidate.head, error=0.1
            )
            return replace(candidate, search_form=shown)

        evaluation = evaluation_of(project / "policy.yaml", project / "out", searched)
        search = Search.of(evaluation.policy.gates[0], evaluation.setting, shared=False)
        noise = build(NoiseSpec(name="noise"), search.ball, search.goal, queries=40)
        found = search.begin()
        replace(search, instead=noise).run(range(len(LEVELS)), found)
        turned.append(set(evaluation.setting.memory.ledger.within("gate", 8)))
    plain, brighter, darker = turned
    dark = {sample for sample in plain if LEVELS[sample] < 127.5}
    assert dark
    assert plain - dark
    assert dark <= brighter
    assert plain - dark <= darker


def test_minimum_norm_searches_follow_the_artefact_itself(project):
    gates = "\n  - {id: fmn, attack: fmn, epsilon: 32/255, require: {accuracy: 0}}\n"
    (wrong,) = _gates(project, gates, by=1.0, error=0.0)
    assert wrong.metrics["accuracy"].value == 0
    nearest = {LEVELS[i]: outcome.distance_levels for i, outcome in enumerate(wrong.samples)}
    assert nearest == {level: float(abs(Fraction(level) - Fraction(255, 2)) + Fraction(1, 2)) for level in LEVELS}


def test_a_curve_is_of_the_nearest_counterexamples_whatever_other_gates_found(project):
    gates = """
  - {id: pgd, attack: {name: pgd, steps: 5}, epsilon: 32/255, require: {accuracy: 0}}
  - {id: fmn, attack: fmn, epsilon: 32/255, require: {accuracy: 0}}
"""
    _, fmn = _gates(project, gates, by=0.0, error=0.0)
    assert {point.levels: point.accuracy for point in fmn.curve} == {
        levels: pytest.approx(accuracy_at(levels)) for levels in (0, 1, 2, 4, 8, 28)
    }


def test_evidence_of_a_cascade_is_inherited_only_if_no_member_searched(project):
    gates = """
  - id: all
    attack: {name: ensemble, steps: 10}
    norm: l2
    epsilon: [10 levels, 34 levels]
    require: {accuracy: 0}
"""
    first, second = _gates(project, gates, by=0.0, error=0.0)
    for gate in (first, second):
        assert {outcome.evidence for outcome in gate.samples if outcome.status == "held"} == {"searched"}
    assert second.cost.gradient > 0


@pytest.mark.parametrize("goal", ["missed_finding", "targeted"])
def test_a_goal_that_is_about_no_sample_is_no_pass(project, goal):
    np.savez(project / "flat.npz", test_images=np.full((4, 8, 8), 90, np.uint8), test_labels=np.zeros((4, 1), int))
    words = "goal: missed_finding" if goal == "missed_finding" else "goal: targeted, target: dark"
    gates = f"\n  - {{id: gate, attack: fgsm, epsilon: 1/255, {words}, require: {{accuracy: 0.5}}}}\n"
    (gate,) = _gates(project, gates, by=0.0, error=0.0)
    assert gate.verdict == "error"
    assert "nothing was attacked" in gate.error


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_faster_form_leaves_no_more_than_the_artefact_does(bfloat16, tmp_path, monkeypatch):
    monkeypatch.setattr(fast_form, "_multiplies_bfloat16", lambda _device: bfloat16)
    left = {}
    for precision in ("auto", "full"):
        text = (POLICIES / "quickstart_standard.yaml").read_text()
        text = text.replace("path: ", f"device: cpu\n  precision: {precision}\n  path: {POLICIES}/", 1)
        text = text[: text.index("gates:")].replace("samples: 200", "samples: 100") + LADDER
        (tmp_path / "networks.py").write_bytes((POLICIES / "networks.py").read_bytes())
        (tmp_path / "policy.yaml").write_text(
            text[: text.index("gates:")].replace("samples: 200", "samples: 100") + LADDER
        )
        report = run(load_policy(tmp_path / "policy.yaml"))
        left[precision] = [gate.metrics["accuracy"].value for gate in report.gates]
    assert max(left["full"]) > 0.3
    for auto, full in zip(left["auto"], left["full"], strict=True):
        assert auto <= full + 0.01  # one of 100
