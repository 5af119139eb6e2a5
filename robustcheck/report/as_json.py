"""A report as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from robustcheck.results import AuditReport
from robustcheck.words import visible

Made = TypeVar("Made")


def in_json(report: AuditReport, use: Callable[[Iterator[bytes]], Made]) -> Made:
    """What `use` makes of the JSON's pieces, which are never all held at once.

    `use` has to begin again if the report contains a file name that is not UTF-8, which JSON cannot hold as it is.
    """
    try:
        return use(report.json_pieces())
    except ValueError:
        return use(_in_unicode(report).json_pieces())


def _in_unicode(report: AuditReport) -> AuditReport:
    shown: AuditReport = _showable(report)
    text = report.policy.text
    if text is not None and text.encode(errors="replace").decode() == text:
        # It is UTF-8, as policies are, and its digest stands beside it: it stays as it is.
        shown = dataclasses.replace(shown, policy=dataclasses.replace(shown.policy, text=text))
    return shown


def _showable(value: Any) -> Any:
    """The data with every text in them made visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {_showable(key): _showable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_showable(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{field.name: _showable(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    return value
