"""What tests of gates share: gates with a patch, an attack that asks in vain, and what replay finds amiss."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from building import brightness_project
from patching import patch_archive

from robustcheck import load_policy
from robustcheck.attacks.base import one_a_row
from robustcheck.attacks.square import Square
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.replay.replaying import replay
from robustcheck.report.pictures import read_stored
from robustcheck.results import AuditReport


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """Even images of 16×16: a white patch of 8 pixels' side adds 255/4 to three quarters of what was there."""
    brightness_project(tmp_path)
    patch_archive(tmp_path, train=(40, 70, 100, 160, 190, 220))
    return tmp_path


@pytest.fixture
def feeble(monkeypatch):
    """Square asks about next to nothing but the sample, and submits it."""
    monkeypatch.setattr(Square, "ask", lambda _self, state, *_: one_a_row(state["images"]))
    monkeypatch.setattr(Square, "start", lambda _self, _images, clean, *_: {"images": clean})
    monkeypatch.setattr(Square, "learn", lambda _self, state, *_: {"images": state["images"] + 1e-6})
    monkeypatch.setattr(Square, "best", lambda _self, state: state["images"])


@pytest.fixture(scope="module")
def known():
    """Evaluations of policies, of which each loads candidate and data once."""
    return {}


@pytest.fixture
def amiss(known, monkeypatch):
    """What is amiss in a folder's report once it was altered, and of which gate."""

    def found(folder, alter=None):
        policy = load_policy(folder / "policy.yaml")
        evaluation = known.setdefault(folder, Evaluation(policy))
        monkeypatch.setattr("robustcheck.evaluation.replay.replaying.Evaluation", lambda *_, **__: evaluation)
        report = json.loads((folder / "out" / "report.json").read_text())
        if alter is not None:
            alter({gate["id"]: gate for gate in report["gates"]})
        said = replay(policy, AuditReport.from_json(json.dumps(report)), partial(read_stored, folder / "out"))
        return "\n".join(f"{gate.id}: {sentence}" for gate in said.gates for sentence in gate.amiss)

    return found
