"""A limit to the time that one run of ONNX Runtime takes: a loop may be endless, and nobody can tell beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

from robustcheck.errors import CandidateError
from robustcheck.models.onnx.runtime import onnxruntime

LONGEST_SECONDS = 600.0
"""A batch is small: the largest networks take a tenth of it on two slow cores."""


@contextmanager
def in_time(name: str) -> Iterator[Any]:
    """Options of a run of the file `name`, which is stopped, between two operators, if it takes too long.

    Raises:
        CandidateError: it was.
    """
    options = onnxruntime.RunOptions()
    clock = Timer(LONGEST_SECONDS, setattr, (options, "terminate", True))
    clock.daemon = True
    clock.start()
    try:
        yield options
    except Exception:
        if not options.terminate:
            raise
        raise CandidateError(
            f"{name} was stopped after {LONGEST_SECONDS / 60:g} minutes, in which it gave no scores for one batch; "
            "does it have a loop that never ends?"
        ) from None
    finally:
        clock.cancel()
