"""How the adversary searches: one file an attack, pure functions over tensors.

An attack never judges its own work and never loops: it says where to start and how to step, a row a sample, and the
engine keeps the rows, asks about their points, adjudicates and restarts (`base` has the protocol). `objectives` are the
losses that are raised, `draws` the random numbers. `build` makes the searches of a policy's entry.
"""

from robustcheck.attacks.apgd import APGD
from robustcheck.attacks.base import Attack, State, Told
from robustcheck.attacks.build import build
from robustcheck.attacks.fgsm import FGSM
from robustcheck.attacks.fmn import FMN
from robustcheck.attacks.objectives import Objective, objective
from robustcheck.attacks.pgd import PGD
from robustcheck.attacks.square import Square

__all__ = ["APGD", "FGSM", "FMN", "PGD", "Attack", "Objective", "Square", "State", "Told", "build", "objective"]
