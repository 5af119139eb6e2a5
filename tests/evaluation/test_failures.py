"""Whatever keeps a gate from being evaluated is one kind of error, whose message says what can be done."""

from __future__ import annotations

import pytest

from robustcheck.errors import DataError, EvaluationError, MissingExtraError
from robustcheck.evaluation.failures import value_or_error


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (DataError("no such file"), "no such file"),
        (
            MissingExtraError("medmnist:x", "medmnist"),
            "medmnist:x needs an extra that is not installed: pip install 'pytest-robustcheck[medmnist]'",
        ),
        (
            MemoryError("of 9 GiB"),
            "memory ran out outside the network; give a smaller model.batch_size: MemoryError: of 9 GiB",
        ),
        (KeyError("x"), "unexpected KeyError: 'x'; this is a defect of robustcheck, or of code that the policy names"),
        (SystemExit(0), "unexpected SystemExit: 0; this is a defect of robustcheck, or of code that the policy names"),
    ],
)
def test_what_is_said_of_an_error(raised, message):
    def fail():
        raise raised

    found = value_or_error(fail)
    assert isinstance(found, EvaluationError)
    assert str(found).splitlines()[0] == message


def test_an_interrupt_is_none():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        value_or_error(interrupted)
