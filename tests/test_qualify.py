"""`robustcheck qualify`: what is known of its candidates holds, and what differs is said."""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from robustcheck import run
from robustcheck.cli import main
from robustcheck.policy import ATTACKS, load_policy
from robustcheck.qualification import candidates, qualify, qualifying
from robustcheck.qualification.images import far_images, images, robust_share, template
from robustcheck.qualification.known_answers import KNOWN, LEVELS, true_accuracy
from robustcheck.report.qualification import qualification_line
from robustcheck.results import AuditReport

FRAGILE = next(known for known in KNOWN if known.name == "fragile, ONNX")


@pytest.fixture(scope="module")
def fragile_report(tmp_path_factory) -> AuditReport:
    """What the fragile graph's policy comes to; no test of what is made of that has to run it again."""
    return run(load_policy(qualifying._write(FRAGILE, tmp_path_factory.mktemp("fragile"))))


def _asked(network, pixels):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return getattr(candidates, network)()(torch.from_numpy(pixels).float().div(255)[:, None]).argmax(dim=1).numpy()


@pytest.mark.parametrize("network", sorted({known.network for known in KNOWN}))
def test_the_best_change_is_known(network):
    """Without a change all are right; along the template half of the images are turned, whatever hides it."""
    pixels, labels = images()
    draws = network in ("Noisy", "RandomlyShifted")
    assert (_asked(network, pixels) == labels).mean() >= (0.97 if draws else 1)
    attacked = pixels + (LEVELS * template() * np.where(labels, -1, 1)[:, None, None])
    assert attacked.min() >= 0
    assert attacked.max() <= 255
    assert (_asked(network, attacked) == labels).mean() == pytest.approx(
        robust_share(LEVELS), abs=0.08 if draws else 0.01
    )


def test_margins_are_exact():
    pixels, labels = images()
    towards = template() * np.where(labels, -1, 1)[:, None, None]
    for levels in (1, 2, 5, 6, 8, 20):
        assert (_asked("Template", pixels + levels * towards) == labels).mean() == robust_share(levels)
    far, _ = far_images()
    assert len(far) == len(pixels) // 4
    assert true_accuracy("pgd-2") == robust_share(2)


def test_without_a_temporary_folder_nothing_is_qualified_and_it_is_said(tmp_path, monkeypatch):
    def none(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(qualifying, "TemporaryDirectory", none)
    done = CliRunner().invoke(main, ["qualify", "-o", str(tmp_path / "filed")])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == (
        "the known answers need a temporary folder for their policies and weights, but there is none: No usable "
        "temporary directory found in ['/tmp']; set TMPDIR to a folder that can be written"
    )


def test_every_known_answer_comes_out(tmp_path):
    done = CliRunner().invoke(main, ["qualify", "-o", str(tmp_path / "filed")])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].startswith("qualified: all 27 known answers")
    filed = json.loads((tmp_path / "filed" / "qualification.json").read_text())
    assert filed["qualified"] is True
    assert {answer["candidate"] for answer in filed["answers"]} == {known.name for known in KNOWN}
    assert {"robustcheck", "torch", "onnxruntime", "platform"} <= set(filed["environment"])
    assert filed["not_covered"][:3] == [
        "Attacks: nes, partial_information, label_only, hopskipjump, rays, noise, patch, rp2.",
        "Goals: false_alarm.",
        "Tasks: binary, multilabel.",
    ]
    assert "Images other than 1 × 16 × 16 (channels, height, width) of 8 bits." in filed["not_covered"]
    page = (tmp_path / "filed" / "qualification.html").read_text()
    assert "Qualified" in page
    assert "k-winners-take-all" in page
    assert all(f"<li>{line}</li>" in page for line in filed["not_covered"])


def test_what_is_not_covered_follows_from_the_answers(fragile_report, monkeypatch):
    monkeypatch.setattr(qualifying, "run", lambda _policy: fragile_report)
    found = qualify((FRAGILE,))
    uncovered = found.not_covered[0].removeprefix("Attacks: ").removesuffix(".").split(", ")
    assert set(uncovered) == set(ATTACKS) - {"fgsm", "pgd", "square"}
    assert "Norms: l2." in found.not_covered
    assert "Files other than onnx." in found.not_covered


def test_an_answer_that_differs_is_said(fragile_report, monkeypatch):
    """Were the known amount another, the installation would not qualify."""
    monkeypatch.setattr(qualifying, "run", lambda _policy: fragile_report)
    monkeypatch.setattr(qualifying, "true_accuracy", lambda _gate: 0.4)
    found = qualify((FRAGILE,))
    assert not found.qualified
    assert [answer.agrees for answer in found.answers] == [False] * 3


def test_a_verdict_that_does_not_follow_is_said(monkeypatch):
    """Were nothing ever failed, accuracies would be right, and the installation would not qualify."""
    monkeypatch.setattr("robustcheck.evaluation.conclusion.judge", lambda *_: "pass")
    found = qualify((replace(FRAGILE, gates={"fgsm": FRAGILE.gates["fgsm"]}),))
    first = found.answers[0]
    assert (first.agrees, first.expected, first.found) == (False, "fail, 0.500", "pass, 0.500")
    assert not found.qualified


def test_a_masked_candidate_that_passes_is_said(monkeypatch):
    """With nobody looking at the attack's health, shattered gradients pass."""
    shattered = next(known for known in KNOWN if known.name == "shattered gradient")
    monkeypatch.setattr("robustcheck.evaluation.gates._health", lambda *_, **__: ())
    (answer,) = qualify((shattered,)).answers
    assert (answer.agrees, answer.found) == (False, "pass, 1.000")


def test_what_did_not_catch_a_masked_candidate_is_named():
    shattered = next(known for known in KNOWN if known.name == "shattered gradient")
    found = qualify((replace(shattered, caught_by="no gradient"),))
    (answer,) = found.answers
    assert (answer.agrees, answer.expected) == (False, "no pass, caught by no gradient")
    line = qualification_line(found)
    assert "expected no pass, caught by no gradient, found error, 1.000, caught by " in line
    assert line.endswith("gradient-predicts, gradient-explains")


def test_one_that_was_interrupted_qualifies_nothing_and_an_earlier_one_does_not_outlive_it(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for name in ("qualification.html", "qualification.json"):
        (tmp_path / name).write_text("Qualified")
    monkeypatch.setattr("robustcheck.evaluation.evaluation.run_gate", interrupted)
    assert CliRunner().invoke(main, ["qualify", "-o", str(tmp_path)]).exit_code == 130
    assert not list(tmp_path.iterdir())


def test_a_gate_without_an_answer_qualifies_nothing(fragile_report, monkeypatch):
    monkeypatch.setattr(qualifying, "run", lambda _policy: replace(fragile_report, gates=fragile_report.gates[:-1]))
    found = qualify((FRAGILE,))
    assert [(answer.gate, answer.agrees) for answer in found.answers] == [
        ("fgsm", True), ("pgd", True), ("square", False)
    ]  # fmt: skip
    assert not found.qualified


@pytest.mark.parametrize(("gates", "code"), [(None, 0), (-1, 1)])
def test_who_no_longer_reads_has_it_filed_and_gets_its_exit_code(fragile_report, tmp_path, monkeypatch, gates, code):
    monkeypatch.setattr(qualifying, "run", lambda _policy: replace(fragile_report, gates=fragile_report.gates[:gates]))
    monkeypatch.setattr("robustcheck.qualification.qualify", partial(qualify, (FRAGILE,)))
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as nobody, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", nobody)
        with pytest.raises(SystemExit) as end:
            main(["qualify", "-o", str(tmp_path)])
    assert end.value.code == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qualification.html", "qualification.json"]


def test_help_says_what_it_shows():
    text = CliRunner().invoke(main, ["qualify", "--help"]).output
    assert "hide their gradients" in text
    assert "Exit codes" in text
