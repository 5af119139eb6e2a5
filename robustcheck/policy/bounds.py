"""Requirements on metrics as a policy writes them: `0.7`, `">= 0.7"`, `"<= 0.2"`."""

from __future__ import annotations

import re
from dataclasses import dataclass

METRICS: dict[str, str] = {
    "accuracy": "share of the samples that are right under the attack",
    "balanced_accuracy": "mean over the labels of the share that is right",
    "sensitivity": "share of the positives that are read as positive",
    "specificity": "share of the negatives that are read as negative",
    "auroc": "area under the ROC curve of the positive label's probability",
    "attack_success": "share of the samples right before the attack that it turned",
}

NEEDS_POSITIVE = frozenset({"sensitivity", "specificity", "auroc"})
NEEDS_ATTACK = frozenset({"attack_success"})

_BOUND = re.compile(r"(>=|<=)\s*(\d*\.?\d+)")


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A metric has to be at least, or at most, a value between 0 and 1."""

    metric: str
    at_least: bool
    value: float

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.value:g}"

    def met_by(self, measured: float) -> bool:
        """Whether a measured value meets the bound; meeting it exactly is enough."""
        return measured >= self.value if self.at_least else measured <= self.value

    @classmethod
    def parse(cls, metric: str, value: object) -> Bound:
        """Read one requirement.

        Raises:
            ValueError: it is not a bound, or not one between 0 and 1; the message is for the user.
        """
        if isinstance(value, str) and (match := _BOUND.fullmatch(value.strip())):
            at_least, number = match[1] == ">=", float(match[2])
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            at_least, number = True, float(value)
        else:
            raise ValueError(f"found {value!r}; a bound is a number such as 0.7 (at least), '>= 0.7' or '<= 0.2'")
        if not 0 <= number <= 1:
            hint = f"; did you mean {number / 100:g}?" if 1 < number <= 100 else ""
            raise ValueError(f"found {value}; {metric} lies between 0 and 1{hint}")
        return cls(metric=metric, at_least=at_least, value=number)
