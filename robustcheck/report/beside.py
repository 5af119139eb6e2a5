"""The files beside a `report.json`, which people and CI read in its place, compared with what it renders to."""

from __future__ import annotations

import platform
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from robustcheck.report.pictures import content_of
from robustcheck.report.writing import rendered
from robustcheck.results import AuditReport
from robustcheck.results.replay import Replay

_PICTURE = re.compile(rb"data:image/png;base64,[\w+/=]*")  # compressed as the machine's Pillow does it
_MOST = 1 << 20  # bytes more than what is rendered, of which no more is read


def with_files(replay: Replay, report: AuditReport, folder: Path) -> Replay:
    """A replay, and what came of comparing `junit.xml` and `report.html`, as far as they lie in the report's folder."""
    there = [name for name in ("junit.xml", "report.html") if (folder / name).exists()]
    if report.environment.get("robustcheck") != version("pytest-robustcheck"):
        return replace(replay, not_compared=tuple(f"{name} (of another version of robustcheck)" for name in there))
    same = report.environment.get("pillow") == version("pillow")
    same = same and report.environment.get("platform") == platform.platform()
    texts = {name: text for name, text in rendered(report, images=folder).items() if name in there}
    amiss, left = list[str](), list[str]()
    for name, text in texts.items():
        here = text.encode()
        stated = content_of(folder, name, len(here) + _MOST)
        if stated == here:
            continue
        if stated is not None and not same and _PICTURE.sub(b"", stated) == _PICTURE.sub(b"", here):
            left.append(f"pictures in {name} (of another machine)")
        else:
            amiss.append(f"{name} beside it is not what it renders to: write it again with robustcheck render")
    return replace(replay, amiss=(*replay.amiss, *amiss), not_compared=tuple(left))
