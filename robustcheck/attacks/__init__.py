"""How the adversary searches: pure functions over tensors.

One file an attack, except `label_only` (in `partial_information`) and `ensemble` (in `searches`); `patterns` stand for
attacks that may only ask, and that too seldom to search.

An attack never judges its own work and never loops: it says where to start and how to go on, with a row for each
sample, and the evaluation keeps the rows, asks about their points, adjudicates and restarts (`base` has the protocols:
attacks that follow gradients, and attacks that ask an oracle). `objectives` are the losses that are raised, `draws` the
random numbers, `adam` Adam's steps, and `estimate` replaces gradients, along `smooth_directions`; `single_steps` is a
search that examines others. `searches` builds the searches of a policy's entry.
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
