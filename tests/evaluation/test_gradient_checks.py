"""How gradients are compared with what changes do: by what change, on how many samples, and what two tries come to."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from building import ARCHITECTURE, brightness_policy, brightness_project

from robustcheck import load_policy, run
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.health.checks import of_gradients
from robustcheck.evaluation.health.explaining import Explained, Explanation
from robustcheck.evaluation.health.predicting import Prediction
from robustcheck.evaluation.search.found import Trace
from robustcheck.results import Cost
from robustcheck.threats import Goal, L2Ball, LinfBall

GOAL = Goal(labels=2)


def _setting(*, randomness=None, visible=(0.0, 1.0), maximum=255):
    """As much of a setting as says how much is changed, and on how many samples."""
    candidate = SimpleNamespace(randomness=randomness, bare=None, preprocess=SimpleNamespace(visible=visible))
    return SimpleNamespace(candidate=candidate, samples=SimpleNamespace(maximum=maximum))


# --- by what change --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "ball", "change"),
    [
        ({}, None, "one grey level"),
        ({"maximum": 4095}, None, "16 grey levels"),
        ({"maximum": 4095, "visible": (0.25, 0.75)}, None, "8 grey levels"),  # a 255th of what is visible
        ({"visible": (0.25, 0.75)}, None, "one grey level"),  # and one at least
        ({"maximum": 4095}, LinfBall(levels=5, maximum=4095), "5 grey levels"),
        ({"maximum": 4095}, LinfBall(levels=50, maximum=4095), "16 grey levels"),
        ({}, L2Ball(levels=13, maximum=255), "one grey level, at most 13 in L2,"),
        # Where means over calls are compared, less would promise no more than chance, whatever the ball.
        ({"randomness": 0.1}, None, "4 grey levels"),
        ({"randomness": 0.1}, LinfBall(levels=1, maximum=255), "4 grey levels"),
        ({"randomness": 0.1}, L2Ball(levels=13, maximum=255), "4 grey levels"),
    ],
)
def test_how_far_images_are_moved_along_the_gradient(more, ball, change):
    assert Prediction(setting=_setting(**more), goal=GOAL, ball=ball).change == change


# A wave of each pixel, to which a level of 8 bits is a radian, beside the margin of the mean.
WAVE = "(excess + 0.05 * torch.sin(image * 255).flatten(1).mean(dim=1))"


def _gate(norm, levels, attack="{name: pgd, steps: 40}"):
    budget = f"norm: {norm}, epsilon: {levels} levels"
    return f"  - {{id: {norm}-{levels}, attack: {attack}, {budget}, require: {{accuracy: 0}}}}\n"


def _seen(folder, *gates, excess=WAVE, levels=range(40, 80)):
    """What is concluded of the gradient, on flat images of 16 bits and a network with this excess, by gate."""
    brightness_project(folder)
    source = ARCHITECTURE.replace("        return", f"        excess = {excess}\n        return")
    (folder / "brightness.py").write_text(source)
    images = 257 * np.array(levels, np.uint16)[:, None, None] * np.ones((1, 8, 8), np.uint16)
    np.savez(folder / "deep.npz", test_images=images, test_labels=np.zeros((len(levels), 1), int))
    data = "source: deep.npz, bits: 16"
    (folder / "policy.yaml").write_text(brightness_policy("".join(gates), data=data, extra="evidence: isolated"))
    found = run(load_policy(folder / "policy.yaml")).gates
    return [[check.evidence for check in gate.health if check.name.startswith("gradient-")] for gate in found]


@pytest.mark.parametrize(("norm", "small", "large"), [("linf", 25, 2500), ("l2", 200, 20000)])
def test_what_small_changes_show_is_not_said_of_larger_ones(norm, small, large, tmp_path):
    """What gates share of what they have tried is about changes of one size."""
    less, more = _seen(tmp_path, _gate(norm, small), _gate(norm, large))
    assert [more] == _seen(tmp_path, _gate(norm, large))
    assert [re.findall(r"[\d.]+ times as|explains \d+%", each) for each in less] == [
        ["0.98 times as"],
        ["explains 100%"],
    ]
    assert [re.findall(r"[\d.]+ times as|explains \d+%", each) for each in more] == [
        ["0.83 times as"],
        ["explains 99%"],
    ]


def test_gradients_at_points_of_the_ball_are_not_taken_for_those_at_images(tmp_path):
    """Those that are kept for who wants them as well, such as a gate that pays for few of its own."""
    wide, small = _gate("l2", 20000), _gate("linf", 25, "fgsm")
    _, after = _seen(tmp_path, wide, small, levels=range(20, 80))
    assert [after] == _seen(tmp_path, small, levels=range(20, 80))
    assert "explains 100%" in after[1]


def test_where_chance_moves_the_margin_more_than_is_promised_nothing_is_concluded(tmp_path):
    excess = "excess + 5 * torch.randn_like(excess)"
    ((evidence, _),) = _seen(tmp_path, _gate("linf", 257, "{name: pgd, steps: 2}"), excess=excess, levels=[40] * 4)
    assert evidence == "the gradient predicts no more than chance on all but 0 of those tried"


NO_ANSWER = "image.new_tensor(torch.nan)"
MEAN, SPREAD, LEAST = (f"image.flatten(1).{of}(dim=1)" for of in ("mean", "std", "amin"))


@pytest.mark.parametrize(
    ("excess", "levels", "explained"),
    [
        # Of all but the darkest image there is no answer once it is changed: that one shows enough.
        (
            f"torch.where(({MEAN} > 20.5 / 255) & ({SPREAD} > 3e-3), {NO_ANSWER}, excess)",
            range(20, 28),
            "explains 100%",
        ),
        # Whoever looks at black images must not be shown any below them.
        (f"torch.where({LEAST} < 0, {NO_ANSWER}, excess)", [0] * 8, "explains 100%"),
        ("(excess * 2).round() / 2 + (excess - excess.detach())", [45] * 8, "no random pattern that was tried moves"),
    ],
    ids=["no answer", "black", "nothing"],
)
def test_what_random_patterns_show_where_they_show_little(excess, levels, explained, tmp_path):
    ((_, evidence),) = _seen(tmp_path, _gate("linf", 257), excess=excess, levels=levels)
    assert explained in evidence


@pytest.mark.parametrize(
    "excess",
    [
        f"torch.where({MEAN} < 65 / 255, excess.detach(), excess)",
        f"excess + 0.01 * (image[:, 0, 0, 0] - image[:, 0, 0, 0].detach() + ({MEAN} > 65 / 255)).sqrt()",
        f"torch.where(({MEAN} > 60.5 / 255) & ({MEAN} < 65 / 255), {NO_ANSWER}, excess)",
    ],
    ids=["nothing promised", "infinitely much promised", "no answer"],
)
def test_images_of_which_nothing_can_be_said_count_neither_way(excess, tmp_path):
    """Those of level 60: the five others bring what is promised."""
    ((evidence, _),) = _seen(
        tmp_path, _gate("linf", 257, "{name: pgd, steps: 200}"), excess=excess, levels=[75] * 5 + [60] * 11
    )
    assert "raises the margin 1.00 times as much as the gradient says (median of 5 samples" in evidence


# --- on how many samples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "gradient", "besides", "count"),
    [
        (0, 0, (0, 0), 3),
        (1000, 1000, (0, 0), 16),
        (300, 300, (0, 0), 15),  # a tenth pays for two passes of each, and a gradient
        (1000, 50, (0, 0), 5),
        (600, 600, (40, 8), 10),
        (300, 300, (40, 8), 6),  # a few, where the tenth does not pay for both
        (100, 100, (40, 8), 5),
    ],
)
def test_on_as_many_samples_as_a_tenth_pays_for(forward, gradient, besides, count):
    prediction = Prediction(setting=_setting(), goal=GOAL)
    assert prediction.count_to_try(Cost(forward=forward, gradient=gradient), besides) == count


def test_what_patches_and_stickers_are_examined_by_shares_a_tenth(tmp_path):
    """As that of searches in balls does: what random patterns cost leaves ten of sixteen."""
    brightness_project(tmp_path, levels=range(40, 80))
    (tmp_path / "policy.yaml").write_text(brightness_policy("  - {id: clean, require: {accuracy: 0}}"))
    setting = Evaluation(load_policy(tmp_path / "policy.yaml"), folder=tmp_path).setting
    checks = of_gradients(setting, GOAL, Trace(), range(40), set(), Cost(forward=600, gradient=600))
    (evidence,) = [check.evidence for check in checks if check.name == "gradient-predicts"]
    assert "(median of 10 samples" in evidence


@pytest.mark.parametrize(
    ("samples", "forward", "more", "price"),
    [
        (8, 100, {}, (40, 8)),  # of each the image's gradient, and two patterns, either way
        (7, 100, {}, (0, 0)),
        (8, 99, {}, (0, 0)),
        (8, 100, {"randomness": 0.1}, (0, 0)),
    ],
)
def test_patterns_are_tried_on_eight_samples_of_gates_that_are_not_small(samples, forward, more, price):
    explanation = Explanation(setting=_setting(**more), goal=GOAL)
    assert explanation.expected(range(samples), Cost(forward=forward)) == price


# --- what two tries come to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("small", "large", "share", "tries"),
    [
        (0.8, 0.9, 0.8, 1),
        (0.55, 0.9, 0.9, 2),
        (0.2, 0.9, 0.9, 2),
        (0.2, 0.1, 0.2, 2),
        (None, 0.2, 0.2, 2),  # the small one moved nothing
        (0.2, None, 0.2, 2),
        (None, None, None, 2),
    ],
)
def test_of_small_and_larger_patterns_those_count_that_are_explained_better(small, large, share, tries, monkeypatch):
    tried = []

    def told(_self, samples, step, longest):
        tried.append((step * 255, longest * 255))
        assert samples == range(8)
        return Explained(share=small if len(tried) == 1 else large, change="")

    monkeypatch.setattr(Explanation, "_tried", told)
    explanation = Explanation(setting=_setting(), goal=GOAL, ball=L2Ball(levels=13, maximum=255))
    found = explanation.of(range(20), Cost(forward=100))
    assert (found.share, found.tries, found.part) == (share, tries, None)
    assert tried == [(1, 13), (4, 52)][:tries]
    assert explanation.price(tries) == (40 * tries, 8 * tries)
    explanation.setting.candidate.bare = "a last softmax was left off: clean images are asked about as well"
    assert explanation.price(tries) == (48 * tries, 8 * tries)


@pytest.mark.parametrize(
    ("shares", "share", "part", "outcome"),
    [
        ([0.7, 0.95, 0.99], 0.7, None, "sound"),  # it bends
        ([0.75, 0.88, 0.91], 0.75, None, "sound"),
        ([0.7, 0.69, 0.71], 0.7, 0.71, "suspect"),  # part of the gradient is missing
        ([0.65, 0.66, 0.64], 0.65, 0.66, "broken"),
        ([0.7, 0.6, 0.2], 0.7, None, "sound"),  # it rounds within
        ([0.7, None, 0.7], 0.7, None, "sound"),  # or its input
        ([0.55, 0.7, 0.55, 0.56], 0.7, 0.56, "broken"),
        ([0.55, 0.59, 0.9, 0.99], 0.59, None, "suspect"),
        ([0.4, 0.7], 0.7, None, "sound"),  # it rounds pixels to a few levels
        ([None, 0.7], 0.7, None, "sound"),
    ],
)
def test_where_a_part_is_not_explained_far_smaller_patterns_say_why(shares, share, part, outcome, monkeypatch):
    left, sizes = iter(shares), []

    def told(_self, _samples, step, longest):
        sizes.append((step * 255, longest * 255))
        return Explained(share=next(left), change="")

    monkeypatch.setattr(Explanation, "_tried", told)
    explanation = Explanation(setting=_setting(), goal=GOAL, ball=L2Ball(levels=13, maximum=255))
    found = explanation.of(range(20), Cost(forward=100))
    assert (found.share, found.part, found.tries, found.outcome) == (share, part, len(shares), outcome)
    assert next(left, "all were tried") == "all were tried"
    assert len(shares) == 2 or sizes[-2:] == [(1 / 4, 13 / 4), (1 / 16, 13 / 16)]
