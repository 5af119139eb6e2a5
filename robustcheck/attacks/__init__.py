"""How the adversary searches: pure functions over tensors.

One file an attack, but for `label_only` (in `partial_information`) and `ensemble` (in `searches`).

An attack never judges its own work and never loops: it says where to start and how to go on, a row a sample, and the
evaluation keeps the rows, asks about their points, adjudicates and restarts (`base` has the protocols: attacks that
follow gradients, and attacks that ask an oracle). `objectives` are the losses that are raised, `draws` the random
numbers, `adam` Adam's steps, `estimate` what stands for a gradient, along `smooth_directions`; `single_steps` are a
search that examines others. `searches` makes those of a policy's entry.
"""

from robustcheck.attacks.apgd import APGD
from robustcheck.attacks.base import Answers, Asked, GradientAttack, QueryAttack, State, Told
from robustcheck.attacks.fgsm import FGSM
from robustcheck.attacks.fmn import FMN
from robustcheck.attacks.objectives import Objective, nearest_border, objective
from robustcheck.attacks.pgd import PGD
from robustcheck.attacks.searches import build
from robustcheck.attacks.square import Square
from robustcheck.attacks.transfer import DiversePGD

__all__ = [
    "APGD",
    "FGSM",
    "FMN",
    "PGD",
    "Answers",
    "Asked",
    "DiversePGD",
    "GradientAttack",
    "Objective",
    "QueryAttack",
    "Square",
    "State",
    "Told",
    "build",
    "nearest_border",
    "objective",
]
