"""What keeps a gate from being evaluated, as one kind of error: candidates, data and defects may raise anything."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from robustcheck.errors import EvaluationError, MissingExtraError
from robustcheck.models.memory import is_out_of_memory
from robustcheck.words import last_line

T = TypeVar("T")


@contextmanager
def as_evaluation_error() -> Iterator[None]:
    """Turn whatever is raised into an `EvaluationError`, a candidate's `sys.exit` too.

    Raises:
        EvaluationError: the message is for the person who typed the policy.
    """
    try:
        yield
    except EvaluationError:
        raise
    except MissingExtraError as error:
        raise EvaluationError(str(error)) from error
    except (Exception, SystemExit) as error:
        raise EvaluationError(_unexpected(error)) from error


def value_or_error(make: Callable[[], T]) -> T | EvaluationError:
    """What is made, or why it cannot be: each gate that needs it reports the reason, and none tries again."""
    try:
        with as_evaluation_error():
            return make()
    except EvaluationError as error:
        return error


def raise_if_error(found: T | EvaluationError) -> T:
    """What was made.

    Raises:
        EvaluationError: it could not be.
    """
    if isinstance(found, EvaluationError):
        raise EvaluationError(str(found))
    return found


def _unexpected(error: BaseException) -> str:
    """The message of an error that nobody foresaw, with its traceback."""
    if is_out_of_memory(error):
        return f"memory ran out outside the network; give a smaller model.batch_size: {last_line(error)}"
    trace = "".join(traceback.format_exception(error))
    return (
        f"unexpected {type(error).__name__}: {error}; this is a defect of robustcheck, or of code that the policy "
        f"names\n{trace}"
    )
