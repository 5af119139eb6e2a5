"""Compares the files beside a `report.json`, which people and CI read in its place, with what it renders to."""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from robustcheck.report.pictures import content_of
from robustcheck.report.writing import rendered
from robustcheck.results import AuditReport
from robustcheck.results.agreed import CLEAN, COUNTEREXAMPLES, PATCHES
from robustcheck.results.replay import Replay
from robustcheck.words import plural

_PICTURE = re.compile(rb"data:image/png;base64,[\w+/=]*")  # compressed as the machine's Pillow does it
_DIGEST = re.compile(rb' Its sha256: <span class="digest">([0-9a-f]{64})</span>(?=</footer>)')
_MOST = 1 << 20  # bytes beyond the rendered size; no more than these are read


def with_files(replay: Replay, report: AuditReport, file: Path) -> Replay:
    """A replay, plus the comparison of `junit.xml` and `report.html`, if they lie beside the report's file.

    A page may have been written beside the pictures or elsewhere, where it has no links. The digest that it states is
    compared separately: one is rendered only if `report.json` is byte for byte what this version writes.
    """
    folder = file.parent
    replay = replace(replay, not_compared=(*replay.not_compared, *_not_named(report, folder)))
    there = [name for name in ("junit.xml", "report.html") if (folder / name).exists()]
    if report.environment.get("robustcheck") != version("pytest-robustcheck"):
        others = (f"{name} (of another version of robustcheck)" for name in there)
        return replace(replay, not_compared=(*replay.not_compared, *others))
    same = report.environment.get("pillow") == version("pillow")
    same = same and report.environment.get("platform") == platform.platform()
    renderings = [rendered(report, images=folder, beside=beside) for beside in (True, False)] if there else []
    amiss, left = list[str](), list[str]()
    for name in there:
        wanted = [_DIGEST.sub(b"", texts[name].encode()) for texts in renderings]
        stated = content_of(folder, name, max(map(len, wanted)) + _MOST) or b""
        here = _DIGEST.sub(b"", stated)
        pictures_aside = [_PICTURE.sub(b"", text) for text in wanted]
        if here not in wanted and (same or _PICTURE.sub(b"", here) not in pictures_aside):
            amiss.append(f"{name} beside it is not what it renders to: write it again with robustcheck render")
            continue
        if here not in wanted:
            left.append(f"pictures in {name} (of another machine)")
        digest = _DIGEST.search(stated)
        if digest is not None and digest[1].decode() != _sha256(file):
            amiss.append(f"{name} states the sha256 of another report.json")
    return replace(replay, amiss=(*replay.amiss, *amiss), not_compared=(*replay.not_compared, *left))


def _not_named(report: AuditReport, folder: Path) -> tuple[str, ...]:
    """How many counterexamples in the folder the report does not mention; empty if there are none.

    A run leaves such files if a gate ended in an error, was decided before its last sample, or found something beyond
    its budget.
    """
    named = {one.counterexample for gate in report.gates for one in gate.samples}
    files = (file.relative_to(folder) for file in (folder / COUNTEREXAMPLES).rglob("*") if file.is_file())
    count = sum(file.parts[1] not in (CLEAN, PATCHES) and file.as_posix() not in named for file in files)
    leave = "gates leave some that search beyond ε (fmn), end in an error, are decided early, or were interrupted"
    return (f"{plural(count, 'counterexample')} beside it that it does not name ({leave})",) if count else ()


def _sha256(file: Path) -> str:
    """The digest of a file's bytes; empty if it can no longer be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
