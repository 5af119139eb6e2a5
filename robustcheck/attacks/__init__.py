"""How the adversary searches: one file an attack, pure functions over tensors.

An attack never judges its own work and never loops: it says where to start and how to step, a row a sample, and the
engine keeps the rows, asks for gradients, adjudicates and restarts (`base` has the protocol). `objectives` are the
losses that are raised, `draws` the random numbers. `build` makes an attack from its entry in a policy.
"""

from robustcheck.attacks.base import GradientAttack, State
from robustcheck.attacks.build import build
from robustcheck.attacks.fgsm import FGSM
from robustcheck.attacks.objectives import log_odds
from robustcheck.attacks.pgd import PGD

__all__ = ["FGSM", "PGD", "GradientAttack", "State", "build", "log_odds"]
