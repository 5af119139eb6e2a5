"""What the adversary raises: one loss per sample, above 0 where the reading is what it wants.

With more than two labels this is only half true of log-odds: against a label they are above 0 even if no label has half
of the probability, and towards one only if it has more than half.

Each is defined for two labels, three and more, for one logit (whose head is read as two labels), and for several
findings at once. They are functions of logits or log-probabilities at the operating point, so a softmax or sigmoid head
does not kill their gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch.nn.functional import logsigmoid

from robustcheck.models.head import AgainstAll
from robustcheck.models.head import Objective as Objective
from robustcheck.threats import Goal

Loss = Literal["cross_entropy", "margin", "dlr"]


def objective(loss: Loss, goal: Goal, *, aimed: bool = False) -> Objective:
    """The loss for a goal.

    Args:
        loss: `cross_entropy`, `margin` (Carlini, Wagner 2017, arXiv 1608.04644, f₆) or `dlr`, the difference of
            logits ratio (Croce, Hein 2020, arXiv 2003.01690, equations 5 and 6).
        goal: what the adversary wants.
        aimed: each row has its own aim, one label or finding among those that would do.
    """
    if goal.multilabel:
        return _one_finding(goal) if aimed else _findings(loss, goal)
    if goal.toward is not None:
        raised = _toward(loss, goal.toward)
    elif aimed:
        raised = _TO[loss]
    else:
        raised = _untargeted(loss)
    return AgainstAll(raised) if loss == "cross_entropy" else raised


def nearest_border(goal: Goal, logits: torch.Tensor, labels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The margin that is the smallest at these logits (N, K), as a function of other logits, to margins (N,).

    There it equals `margin`. Elsewhere another label, or another finding, may be nearer: `margin` switches to that one
    and has a kink, while this has none.
    """
    if goal.multilabel:
        nearest = margins_of_findings(goal, logits, labels).argmax(dim=1)
        return lambda others: _of(margins_of_findings(goal, others, labels), nearest)
    wanted = None if goal.toward is None else torch.full_like(labels, goal.toward)
    best = _others(logits, labels if wanted is None else wanted).argmax(dim=1)
    first, second = (labels, best) if wanted is None else (best, wanted)
    return lambda others: _margin_to(others, first, second)


def log_probability(goal: Goal, *, of_many: bool = False) -> Objective:
    """The log-probability of what a goal wants, for means over many looks: those that are turned weigh nothing.

    It is log σ of the log-odds, so its gradient does not vanish where the network is sure of the true label.

    Args:
        goal: what the adversary wants.
        of_many: whether the mean is over images that share one change. It turns a different finding in each, and is
            found by pulling at all that may be turned: they have the odds of their soft maximum (log-sum-exp).
    """
    odds = _any_finding(goal) if goal.multilabel and of_many else objective("cross_entropy", goal)

    def raised(logits: torch.Tensor, labels: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
        return logsigmoid(odds(logits, labels, aims))

    return AgainstAll(raised)


def log_odds(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-odds (N,) against a label: log((1 - p) / p) of its softmax probability p.

    It is what `cross_entropy` raises. It rises with the cross-entropy -log p, and its gradient is a positive multiple
    of that one's, so signed and normalised steps, and comparisons of losses, are the same. But where the network is
    sure, the gradient of cross-entropy rounds to zero and this one does not. For two labels, or one logit, it is the
    margin between them. Above 0, more than half of the probability lies elsewhere.

    Args:
        logits: (N, K), K >= 2; log-probabilities are logits too.
        labels: (N,) indexes.
    """
    if logits.shape[1] == 2:
        return margin(logits, labels)
    return _others(logits, labels).logsumexp(dim=1) - _of(logits, labels)


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How far the best other label is ahead of this one: (N,)."""
    if logits.shape[1] == 2:
        first, second = logits.unbind(dim=1)
        return (second - first) * (1 - 2 * labels)  # 1 for label 0, -1 for label 1
    return _others(logits, labels).amax(dim=1) - _of(logits, labels)


def dlr(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The margin in units of the distance between the best and the third best logit, so their scale does not matter.

    With two labels there is no third, and the loss is the margin itself.
    """
    if logits.shape[1] < 3:
        return margin(logits, labels)
    best = logits.topk(3, dim=1).values
    return margin(logits, labels) / _unit(best[:, 0] - best[:, 2])


def _cross_entropy_to(logits: torch.Tensor, _labels: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
    return -log_odds(logits, aims)


def _margin_to(logits: torch.Tensor, labels: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
    return _of(logits, aims) - _of(logits, labels)


def _dlr_to(logits: torch.Tensor, labels: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
    return _margin_to(logits, labels, aims) / _scale_to(logits)


def _scale_to(logits: torch.Tensor) -> torch.Tensor | float:
    """Targeted DLR's unit, the best logit's distance from the mean of the third and the fourth.

    With three labels the third alone would do only until it is the target: then the ratio is constant. So there is no
    unit, as with two.
    """
    if logits.shape[1] < 4:
        return 1.0
    best = logits.topk(4, dim=1).values
    return _unit(best[:, 0] - best[:, 2:].mean(dim=1))


def _unit(distance: torch.Tensor) -> torch.Tensor:
    """A distance (N,) between logits to divide by, however small they are; 1 where they are alike."""
    return torch.where(distance > 0, distance, 1)


_UNTARGETED = {"cross_entropy": log_odds, "margin": margin, "dlr": dlr}
_TO: dict[str, Objective] = {"cross_entropy": _cross_entropy_to, "margin": _margin_to, "dlr": _dlr_to}


def _untargeted(loss: Loss) -> Objective:
    return lambda logits, labels, _aims: _UNTARGETED[loss](logits, labels)


def _toward(loss: Loss, label: int) -> Objective:
    """The loss if one label is wanted: the loss of that label, reversed."""

    def toward(logits: torch.Tensor, labels: torch.Tensor, _aims: torch.Tensor) -> torch.Tensor:
        wanted = torch.full_like(labels, label)
        if loss == "cross_entropy":
            return -log_odds(logits, wanted)
        return -margin(logits, wanted) / (_scale_to(logits) if loss == "dlr" else 1.0)

    return toward


def _findings(loss: Loss, goal: Goal) -> Objective:
    """The loss if any of several findings may be turned: the margin of the finding nearest to its threshold.

    `cross_entropy` lets the others pull as well until one is turned: the nearest may hardly move, and hide another that
    would turn. There is no scale to divide by (`dlr`): findings do not compete.
    """

    def turned(logits: torch.Tensor, labels: torch.Tensor, _aims: torch.Tensor) -> torch.Tensor:
        margins = margins_of_findings(goal, logits, labels)
        nearest = margins.amax(dim=1)
        return torch.where(nearest < 0, _pulled(margins), nearest) if loss == "cross_entropy" else nearest

    return turned


def _pulled(margins: torch.Tensor) -> torch.Tensor:
    """-(Σ 1/mₖ²)^-½ (N,) of margins below 0: findings pull by the inverse cube of how far from 0 they are.

    No scale of the logits matters. A soft maximum (log-sum-exp) has one: margins well below 1 all pull alike there,
    each in a direction of its own, and the nearest is not turned.
    """
    numbers = torch.finfo(margins.dtype)
    away = (-margins).clamp(numbers.tiny, numbers.max)  # a margin of -inf is another goal's, and does not pull
    nearest = away.amin(dim=1, keepdim=True).detach()
    return -nearest.squeeze(1) / (nearest / away).square().sum(dim=1).sqrt()


def _any_finding(goal: Goal) -> Objective:
    """The soft maximum (log-sum-exp) of the findings' margins."""
    return lambda logits, labels, _aims: margins_of_findings(goal, logits, labels).logsumexp(dim=1)


def _one_finding(goal: Goal) -> Objective:
    """The margin of the row's own finding, whatever the loss: nothing competes with it."""
    return lambda logits, labels, aims: _of(margins_of_findings(goal, logits, labels), aims)


def margins_of_findings(goal: Goal, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How far (N, K) each of several findings is beyond its threshold; -inf for those that a goal is not about."""
    margins = torch.where(goal.present(labels), -logits, logits)
    return margins.masked_fill(~goal.attackable_findings(labels), -torch.inf)


def _of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, labels[:, None]).squeeze(1)


def _others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf)
