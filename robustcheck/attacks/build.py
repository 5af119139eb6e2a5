"""From an attack's entry in a policy to the attack."""

from __future__ import annotations

from robustcheck.attacks.base import GradientAttack
from robustcheck.attacks.fgsm import FGSM
from robustcheck.attacks.pgd import PGD
from robustcheck.policy import FGSMSpec, PGDSpec
from robustcheck.threats import LinfBall

STEP_RATIO = 2.5  # of ε / steps: Madry et al.'s, far enough to reach the ball's border from any start


def build(spec: FGSMSpec | PGDSpec, ball: LinfBall) -> GradientAttack:
    """The attack that a policy asks for, inside a ball."""
    if isinstance(spec, FGSMSpec):
        return FGSM()
    bits = ball.maximum.bit_length()
    step = (
        STEP_RATIO * ball.radius / spec.steps
        if spec.step_size is None
        else float(spec.step_size.in_levels(bits) / ball.maximum)
    )
    restarts = spec.restarts if spec.random_start else 1  # from the image itself every restart is the same
    return PGD(steps=spec.steps, restarts=restarts, step_share=step, random_start=spec.random_start)
