"""A network whose answer is the mean brightness, and how its images are seen: under conditions, and with stickers."""

from __future__ import annotations

import torch
from torch import nn

from robustcheck.attacks.draws import Draws, key
from robustcheck.policy import ConditionsSpec
from robustcheck.threats import Goal
from robustcheck.threats.viewing import Conditions

GOAL = Goal(labels=2)
LEVELS = (60, 90, 100, 118, 137, 155, 165, 200)


class Brightness(nn.Module):
    def forward(self, image):
        excess = (image.flatten(1).mean(dim=1) - 0.5) * 20
        return torch.stack([-excess, excess], dim=1)


def conditions_of(**ranges):
    return Conditions(spec=ConditionsSpec(**ranges))


def draws_of(count, gate="gate"):
    return Draws.of([key(0, gate, str(row), 0) for row in range(count)], torch.device("cpu"))
