"""Which samples a goal attacks, and when two models say the same as far as it is concerned."""

from __future__ import annotations

import pytest
import torch

from robustcheck.models.head import NO_ANSWER
from robustcheck.threats import Goal


@pytest.mark.parametrize(
    ("kind", "target", "attacked"),
    [
        # Four samples of label 0, read as 0, 1 and 2 and not at all; then the same of label 1, which is disease.
        ("untargeted", None, [1, 0, 0, 0, 0, 1, 0, 0]),
        ("missed_finding", None, [0, 0, 0, 0, 0, 1, 0, 0]),
        ("false_alarm", None, [1, 0, 1, 0, 0, 0, 0, 0]),  # a negative that is taken for another negative is right
        ("targeted", 1, [1, 0, 1, 0, 0, 0, 0, 0]),  # as toward disease
        ("targeted", 2, [1, 0, 0, 0, 0, 1, 0, 0]),  # toward another label only what is read as its own
    ],
)
def test_what_is_attacked_is_right_as_the_goal_counts_it(kind, target, attacked):
    goal = Goal(kind=kind, labels=3, target=target, positive=1)
    readings, labels = torch.tensor([0, 1, 2, NO_ANSWER] * 2), torch.tensor([0] * 4 + [1] * 4)
    assert goal.attackable(readings, labels).int().tolist() == attacked


@pytest.mark.parametrize(("kind", "attacked"), [("untargeted", [1, 0, 0, 0]), ("missed_finding", [1, 0, 1, 0])])
def test_of_several_findings_what_is_not_answered_is_not_attacked(kind, attacked):
    goal = Goal(kind=kind, labels=2, multilabel=True)
    readings = torch.tensor([0b01, 0b10, 0b11, NO_ANSWER])
    assert goal.attackable(readings, torch.tensor([0b01] * 4)).int().tolist() == attacked


def test_no_answer_is_never_a_false_alarm_and_always_a_missed_finding():
    labels, readings = torch.tensor([0b01, 0b10]), torch.tensor([NO_ANSWER, NO_ANSWER])
    for kind, met in (("missed_finding", True), ("false_alarm", False)):
        assert Goal(kind=kind, labels=2, multilabel=True).met(readings, labels).tolist() == [met] * 2


def test_models_are_alike_in_the_finding_that_the_goal_is_about():
    """Whose finding is present and who gives no answer are not, though the number of no answer has all bits."""
    goal = Goal(kind="missed_finding", positive=0, labels=2, multilabel=True)
    one = torch.tensor([0b01, 0b01, 0b11, NO_ANSWER, 0b10, 0b01])
    other = torch.tensor([0b11, 0b00, 0b11, NO_ANSWER, NO_ANSWER, NO_ANSWER])
    alike = [True, False, True, True, False, False]
    assert goal.alike(one, other).tolist() == goal.alike(other, one).tolist() == alike


def test_a_change_of_all_images_goes_for_what_a_goal_wants_whichever_label_that_is():
    """Of findings, all of them may be missed, or raised, though the goal names a positive one."""
    several = Goal(labels=3, positive=1, multilabel=True).directions
    assert [(one.kind, one.positive) for one in several] == [("missed_finding", None), ("false_alarm", None)]
    assert [(one.kind, one.target) for one in Goal(labels=3, positive=1).directions] == [
        ("targeted", label) for label in range(3)
    ]
    assert Goal(kind="false_alarm", labels=3, positive=1).directions == ()
