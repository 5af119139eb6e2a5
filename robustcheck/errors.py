"""The errors that users of robustcheck may catch.

    RobustcheckError
    ├── PolicyError           the policy cannot be used: pytest exit 4, `robustcheck` exit 2
    ├── EvaluationError       a gate could not be evaluated: its verdict is `error`
    │   ├── CandidateError    the model artefact: loading it, or what it answers
    │   ├── DataError         the images and labels
    │   ├── UserCodeError     the user's own code: `module:callable`
    │   ├── AccessError       the attack asked for what the candidate or the threat model does not give
    │   │   └── QueryLimitError
    │   └── NoMemoryError     one image at a time is still too much
    ├── ReportError           a report cannot be read or written
    └── MissingExtraError     an optional dependency is not installed

Messages are for the person who typed the policy: what was found, what is allowed, what to do.
"""

from __future__ import annotations

from dataclasses import dataclass


class RobustcheckError(Exception):
    """Base of all errors that robustcheck raises on purpose."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake in a policy file."""

    file: str
    line: int | None  # 1-based; None if the mistake has no place in the file
    key: str  # path of the key, e.g. "gates[2].attack.steps"; "" for the file as a whole
    message: str  # what was found, what is allowed, what to do

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class PolicyError(RobustcheckError):
    """The policy cannot be used; carries every mistake that was found, in file order."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class EvaluationError(RobustcheckError):
    """A gate could not be evaluated. It is neither a pass nor a fail."""


class CandidateError(EvaluationError):
    """The model artefact cannot be loaded, or gives answers that cannot be judged."""


class DataError(EvaluationError):
    """The images or labels cannot be read, or do not fit the policy."""


class UserCodeError(EvaluationError):
    """What `module:callable` names cannot be imported, or is not callable."""


class AccessError(EvaluationError):
    """The attack asked for something that its threat model or the candidate does not give."""


class QueryLimitError(AccessError):
    """A query was refused because it would have passed a sample's limit."""


class NoMemoryError(EvaluationError):
    """The candidate does not fit in memory even with one image at a time."""


class ReportError(RobustcheckError):
    """A report cannot be read or written."""


class MissingExtraError(RobustcheckError):
    """An optional dependency is not installed."""

    def __init__(self, needed_for: str, extra: str) -> None:
        super().__init__(
            f"{needed_for} needs an extra that is not installed: pip install 'pytest-robustcheck[{extra}]'"
        )
