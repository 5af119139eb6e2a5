"""What must come out: the accuracy to the last image where it is known, and no pass where gradients are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robustcheck.qualification.images import robust_share

ATTACK, NO_GRADIENT, NOTHING_TO_FOLLOW = "the attack", "no gradient", "nothing to follow"

LEVELS = 8  # the budget at which masked candidates are asked to hold
REQUIRED = 0.55  # accuracy: a little more than is left at LEVELS, which turn half of the images
REQUIRED_OF_HALF = 0.8  # the same where the adversary is after half of the images


@dataclass(frozen=True, kw_only=True)
class Known:
    """A candidate, its gates, and what they must answer."""

    name: str
    what: str  # the candidate, in words
    network: str  # in `candidates`
    gates: dict[str, float]  # the accuracy that each requires, by its name in `GATES`
    format: Literal["safetensors", "onnx"] = "safetensors"
    output: Literal["logits", "probabilities"] = "logits"
    images: Literal["images", "far_images"] = "images"
    caught_by: str = ""  # a check that is broken, or `ATTACK`: what keeps one that hides its gradients from passing
    draws: bool = False  # its answers are drawn by chance, and a finding has to say so


GATES: dict[str, str] = {
    "fgsm": f"attack: fgsm, epsilon: {LEVELS}/255",
    "pgd": f"attack: {{name: pgd, steps: 20}}, epsilon: {LEVELS}/255",
    "pgd-2": "attack: {name: pgd, steps: 20}, epsilon: 2/255",
    "pgd-l2": f"attack: {{name: pgd, steps: 20}}, norm: l2, epsilon: {16 * LEVELS} levels",
    "targeted": f"attack: {{name: pgd, steps: 20}}, goal: targeted, target: below, epsilon: {LEVELS}/255",
    "missed": f"attack: {{name: pgd, steps: 20}}, goal: missed_finding, epsilon: {LEVELS}/255",
    "apgd": f"attack: {{name: apgd, steps: 20}}, epsilon: {LEVELS}/255",
    "fmn": f"attack: {{name: fmn, steps: 40}}, epsilon: {LEVELS}/255",
    "ensemble": f"attack: {{name: ensemble, steps: 20, queries: 500}}, epsilon: {LEVELS}/255",
    "square": f"attack: square, queries: 2000, epsilon: {LEVELS}/255",
    "transfer": f"attack: {{name: transfer, surrogate: {{path: surrogate.safetensors, "
    f"architecture: 'robustcheck.qualification.candidates:Template'}}}}, epsilon: {LEVELS}/255",
}

BUDGETS = {"pgd-2": 2}  # grey levels, of gates that have another
ABOUT_HALF = ("targeted", "missed")  # gates whose adversary is after images of one label alone


def true_accuracy(gate: str) -> float:
    """The accuracy that a gate leaves of a fragile candidate, in closed form."""
    share = robust_share(BUDGETS.get(gate, LEVELS))
    return (1 + share) / 2 if gate in ABOUT_HALF else share


def _masked(
    name: str,
    what: str,
    network: str,
    caught_by: str,
    *,
    draws: bool = False,
    output: Literal["logits", "probabilities"] = "logits",
) -> Known:
    """A candidate that hides its gradients, with one gate that it must not pass."""
    gates = {"pgd": REQUIRED}
    return Known(name=name, what=what, network=network, gates=gates, output=output, caught_by=caught_by, draws=draws)


KNOWN: tuple[Known, ...] = (
    Known(
        name="robust",
        what="no change that the budget allows turns any image",
        network="Template",
        images="far_images",
        gates=dict.fromkeys(("fgsm", "pgd", "apgd", "square"), 1.0),
    ),
    Known(
        name="fragile",
        what="each image is turned by a known number of grey levels, and by none less",
        network="Template",
        gates=dict.fromkeys(
            ("fgsm", "pgd", "pgd-2", "pgd-l2", "apgd", "fmn", "ensemble", "square", "transfer"), REQUIRED
        )
        | dict.fromkeys(ABOUT_HALF, REQUIRED_OF_HALF),
    ),
    Known(
        name="fragile, ONNX",
        what="the same network as a graph",
        network="Template",
        format="onnx",
        gates=dict.fromkeys(("fgsm", "pgd", "square"), REQUIRED),
    ),
    _masked("quantised input", "pixels are rounded to nine levels first", "Quantised", NOTHING_TO_FOLLOW),
    _masked("thermometer code", "pixels become codes of the thresholds that they pass", "Thermometer", NO_GRADIENT),
    _masked("saturated softmax", "probabilities are 0 or 1", "SaturatedSoftmax", ATTACK, output="probabilities"),
    _masked("saturated sigmoid", "a sigmoid in the middle is 0 or 1", "SaturatedSigmoid", NOTHING_TO_FOLLOW),
    _masked("noise", "every pixel gets noise that is drawn in each call", "Noisy", ATTACK, draws=True),
    _masked(
        "random transformation", "images are scaled and brightened by chance", "RandomlyShifted", ATTACK, draws=True
    ),
    _masked("shattered gradient", "a ripple too fast to follow lies on every pixel", "Shattered", "gradient-predicts"),
    _masked("partial gradient", "one pixel in ten has a gradient", "PartlyFollowed", "gradient-explains"),
    _masked("k-winners-take-all", "which features decide depends on the image", "WinnersTakeAll", NOTHING_TO_FOLLOW),
)
