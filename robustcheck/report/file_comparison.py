"""Compares the files beside a `report.json`, which people and CI read in its place, with what it renders to."""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path, PurePath

from robustcheck.report.pictures import content_of
from robustcheck.report.text import one_line
from robustcheck.report.writing import rendered
from robustcheck.results import AuditReport, GateResult
from robustcheck.results.agreed import BEYOND_THEIR_BUDGET, CLEAN, COUNTEREXAMPLES, PATCHES, folder_names
from robustcheck.results.replay import Replay
from robustcheck.words import listed, plural

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
    """How many counterexamples in the folder the report does not mention, and whether its gates leave such files."""
    named = {one.counterexample for gate in report.gates for one in gate.samples}
    files = (file.relative_to(folder) for file in (folder / COUNTEREXAMPLES).rglob("*") if file.is_file())
    others = [file for file in files if file.parts[1] not in (CLEAN, PATCHES) and file.as_posix() not in named]
    why = _why_left(report)
    left = [file for file in others if file.parts[1] in why]
    reasons = listed(dict.fromkeys(why[file.parts[1]] for file in left), limit=3)
    said = [
        f"{plural(len(left), 'counterexample')} beside it that it does not name, as its gates leave some ({reasons})"
        if left
        else "",
        _unexplained([file for file in others if file.parts[1] not in why]),
    ]
    return tuple(filter(None, said))


def _why_left(report: AuditReport) -> dict[str, str]:
    """Folders of gates that leave counterexamples which no sample has in the report, and why."""
    folders = folder_names([*(gate.id for gate in report.gates), *report.not_run])
    why = {folders[gate.id]: words for gate in report.gates if (words := _why_gate_leaves(gate))}
    stopped = {folders[name]: f"{one_line(name)} was interrupted" for name in report.not_run if report.interrupted}
    return why | stopped


def _why_gate_leaves(gate: GateResult) -> str:
    if gate.verdict == "error":
        return f"{one_line(gate.id)} is an error"
    if gate.attack in BEYOND_THEIR_BUDGET:
        return f"{gate.attack} also keeps what it finds beyond ε"
    return f"{one_line(gate.id)} was decided early" if gate.stopped is not None and gate.stopped.decided else ""


def _unexplained(files: list[PurePath]) -> str:
    """What to say about counterexamples in the folders of gates that leave none, or of no gate."""
    if not files:
        return ""
    folders = listed(dict.fromkeys(sorted(file.parts[1] for file in files)), limit=3)
    return (
        f"{plural(len(files), 'counterexample')} beside it that it does not name and no gate of it leaves ({folders})"
    )


def _sha256(file: Path) -> str:
    """The digest of a file's bytes; empty if it can no longer be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
