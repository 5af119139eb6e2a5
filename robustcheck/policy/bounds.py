"""Requirements on metrics as a policy writes them: `0.7`, `">= 0.7"`, `"<= 0.2"`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from robustcheck.results.agreed import WORST_FINDING, WORST_SUBGROUP
from robustcheck.words import shown

OF_SUBGROUPS = (
    "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "auroc", "attack_success",
)  # fmt: skip
OF_FINDINGS = ("sensitivity", "specificity", "balanced_accuracy", "ppv", "npv", "auroc")
SLICED = (
    f"{WORST_SUBGROUP}.METRIC (with data.subgroups), and for task: multilabel {WORST_FINDING}.METRIC and LABEL.METRIC"
)

NEEDS_POSITIVE = frozenset({"sensitivity", "specificity", "ppv", "npv", "auroc"})
NEEDS_PREVALENCE = frozenset({"ppv", "npv"})
NEEDS_CONTROLS = frozenset({"control_success", "excess_success"})
NEEDS_ATTACK = frozenset({"attack_success"}) | NEEDS_CONTROLS
LOWER_IS_BETTER = NEEDS_ATTACK  # for the candidate: what an adversary achieves

NO_ANYTIME_INTERVAL = frozenset({"auroc"})  # metrics that have no interval in gates that stop early

_NUMBER = r"\d{0,20}\.?\d{1,40}"
_BOUND = re.compile(rf"(>=|<=)\s*({_NUMBER})", re.ASCII)
_NEARLY = re.compile(rf"([<>≤≥]|[<>]=|=[<>])?\s*({_NUMBER})\s*(%?)", re.ASCII)
FORMS = "a bound is a number such as 0.7 (at least), '>= 0.7' or '<= 0.2'"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A metric has to be at least, or at most, a value between 0 and 1."""

    metric: str
    at_least: bool
    value: float

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {_plain(self.value)}"

    def met_by(self, measured: float) -> bool:
        """Whether a measured value meets the bound; meeting it exactly is enough."""
        return measured >= self.value if self.at_least else measured <= self.value

    def decided_by(self, low: float, high: float) -> bool | None:
        """Whether a whole interval meets the bound; None if the bound lies inside it."""
        if self.at_least:
            return True if low >= self.value else False if high < self.value else None
        return True if high <= self.value else False if low > self.value else None

    @property
    def always_met(self) -> bool:
        """Whether every value from 0 to 1 meets it: the metric is then only measured."""
        return self.value == (0.0 if self.at_least else 1.0)

    @property
    def of(self) -> tuple[str, str]:
        """What the metric is about (`worst_subgroup`, `worst_finding`, a label; else ""), and its plain name."""
        about, _, plain = self.metric.rpartition(".")
        return about, plain

    @property
    def averages_findings(self) -> bool:
        """Whether it is about the mean over several findings, of all samples or of a subgroup."""
        about, plain = self.of
        return plain == "balanced_accuracy" and about in ("", WORST_SUBGROUP)

    @classmethod
    def parse(cls, metric: str, value: object) -> Bound:
        """Read one requirement.

        Raises:
            ValueError: it is not a bound, or not one between 0 and 1; the message is for the user.
        """
        if isinstance(value, str) and (match := _BOUND.fullmatch(value.strip())):
            at_least, number = match[1] == ">=", float(match[2])
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if metric.rpartition(".")[2] in LOWER_IS_BETTER:
                raise ValueError(f"found {shown(value)}, which would mean at least that; {_low(metric)}")
            at_least, number = True, value
        else:
            low = metric.rpartition(".")[2] in LOWER_IS_BETTER and not str(value).strip().startswith(tuple("<>≤≥"))
            raise ValueError(f"found {shown(value)}; {_low(metric) if low else FORMS + _hint(value)}")
        if not 0 <= number <= 1:
            raise ValueError(f"found {shown(value)}; {metric} lies between 0 and 1{_hint(value)}")
        return cls(metric=metric, at_least=at_least, value=float(number))


def _low(metric: str) -> str:
    """What to say if a bare number would ask for the opposite of what is meant."""
    return f"{metric} has to stay low: write a bound such as '<= 0.2', or '>= 0.2' if that is what you mean"


def _plain(number: float) -> str:
    """The shortest decimal that reads back as the same number, and never with an exponent."""
    text = format(Decimal(repr(number)), "f")
    return text.removesuffix(".0")


def _hint(value: object) -> str:
    """What was probably meant by `> 0.7`, `80` or `'0.7'`, which are nearly bounds."""
    match = _NEARLY.fullmatch(value.strip() if isinstance(value, str) else shown(value))
    if match is None:
        return ""
    sign, digits, percent = match.groups()
    number = Decimal(digits)
    if percent or (number > 1 and number == int(number)):
        number /= 100
    if number > 1:
        return ""
    meant = f"{number.normalize():f}"
    if sign:
        return f"; did you mean '{'<=' if set(sign) & set('<≤') else '>='} {meant}'?"
    return f"; did you mean {meant}{', without quotes' if isinstance(value, str) and not percent else ''}?"
