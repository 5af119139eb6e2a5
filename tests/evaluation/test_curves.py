"""How accuracy falls with the queries and with the budget, by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from robustcheck.evaluation.curves import budget_curve, query_curve
from robustcheck.evaluation.search.ledger import UNKNOWN, Ledger
from robustcheck.results import CurvePoint, QueryPoint


def _setting():
    """Four samples of two findings; one of them is misread in the second, and may be attacked all the same."""
    ledger = Ledger()
    for sample, distance in ((0, 2.0), (1, 1.0), (2, 2.0)):
        ledger.add("linf", sample, replace(UNKNOWN, distance=distance))
    labels = torch.tensor([0b01, 0b01, 0b01, 0b01])
    decisions = torch.tensor([0b01, 0b11, 0b01, 0b01])
    return SimpleNamespace(labels=labels, decisions=decisions, memory=SimpleNamespace(ledger=ledger))


def test_what_was_misread_before_falls_at_no_number_of_queries():
    broken = {sample: replace(UNKNOWN, queries=queries) for sample, queries in ((0, 9), (1, 3), (2, 5))}
    assert query_curve(_setting(), np.arange(4), broken) == (
        QueryPoint(queries=0, accuracy=3 / 4),
        QueryPoint(queries=5, accuracy=2 / 4),
        QueryPoint(queries=9, accuracy=1 / 4),
    )


def test_what_was_misread_before_or_another_gate_attacked_falls_at_no_budget():
    for attacked, left in (({0, 1, 2}, 1 / 4), ({0, 1}, 2 / 4)):
        assert budget_curve(_setting(), "linf", np.arange(4), attacked) == (
            CurvePoint(levels=0.0, accuracy=3 / 4),
            CurvePoint(levels=2.0, accuracy=left),
        )
