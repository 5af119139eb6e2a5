"""The project's own policies, candidates and numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from robustcheck import load_policy, run
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.models.fast.layout import NOTE
from robustcheck.results import AuditReport

POLICIES = Path(__file__).parents[1] / "policies"
# Of their card: clean, and what PGD-40 leaves at 1, 2, 4 and 8 /255; processors differ by a few X-rays of 624.
HARDENED = pytest.approx([0.877, 0.861, 0.848, 0.804, 0.712], abs=0.01)
STANDARD = pytest.approx([0.923, 0.737, 0.391, 0.032, 0.000], abs=0.01)
EVERY = sorted(POLICIES.glob("*.yaml"))


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_every_policy_of_the_project_is_valid(path):
    assert load_policy(path).gates


def test_twins_ask_the_same():
    for name in ("quickstart", "pneumonia_mnist"):
        one, other = (load_policy(POLICIES / f"{name}{twin}.yaml") for twin in ("", "_standard"))
        assert one.gates == other.gates
        assert one.data == other.data
        assert one.model.path != other.model.path


@pytest.fixture(scope="module")
def quickstarts() -> tuple[AuditReport, AuditReport]:
    """The reports of the quickstart and of its twin."""
    hardened, standard = (run(load_policy(POLICIES / f"quickstart{twin}.yaml")) for twin in ("", "_standard"))
    return hardened, standard


def test_the_quickstart_passes_and_its_twin_fails(quickstarts):
    hardened, standard = quickstarts
    assert hardened.verdict == "pass"
    assert hardened.data.synthetic
    assert NOTE not in hardened.model.notes  # its convolutions would answer oracles channels last, but none asks
    assert standard.verdict == "fail"
    assert standard.gates[0].verdict == "pass"  # on clean images nothing is wrong with it


@pytest.mark.parametrize("which", [0, 1], ids=["quickstart.yaml", "quickstart_standard.yaml"])
@pytest.mark.parametrize("gate", ["fgsm", "pgd[2/255]"])
def test_plain_candidates_on_phantoms_are_not_accused(gate, which, quickstarts):
    (result,) = (one for one in quickstarts[which].gates if one.id == gate)
    assert result.health
    assert not [check for check in result.health if check.outcome in ("suspect", "broken")]
    assert not [finding for finding in result.findings if finding.severity != "note"]


@pytest.mark.xrays
def test_real_xrays_the_hardened_candidate_passes_and_the_standard_one_fails(xrays):
    hardened, standard = (run(load_policy(POLICIES / f"pneumonia_mnist{twin}.yaml")) for twin in ("", "_standard"))
    accuracy = [{gate.id: gate.metrics["accuracy"].value for gate in report.gates} for report in (hardened, standard)]
    assert [report.data.samples for report in (hardened, standard)] == [624, 624]
    for one, card in zip(accuracy, (HARDENED, STANDARD), strict=True):
        assert [one[gate] for gate in ("clean", *(f"pgd[{level}/255]" for level in (1, 2, 4, 8)))] == card
    assert (hardened.verdict, standard.verdict) == ("pass", "fail")


@pytest.mark.parametrize("path", sorted((POLICIES / "candidates").glob("*.*")), ids=lambda path: path.name)
def test_candidates_are_small_and_on_their_card(path):
    assert path.stat().st_size < 1_000_000
    if path.suffix != ".md":
        assert hashlib.sha256(path.read_bytes()).hexdigest() in (POLICIES / "candidates" / "README.md").read_text()


@pytest.mark.parametrize(
    "square", ["", "{id: asked, attack: square, epsilon: 2/255, queries: 9, require: {accuracy: 0}}"]
)
def test_how_oracles_ask_it_is_found_out_where_one_will(square, tmp_path):
    text = (POLICIES / "quickstart.yaml").read_text().replace("path: candidates", f"path: {POLICIES}/candidates")
    (tmp_path / "policy.yaml").write_text(text + (f"\n  - {square}\n" if square else ""))
    (tmp_path / "networks.py").write_text((POLICIES / "networks.py").read_text())
    setting = Evaluation(load_policy(tmp_path / "policy.yaml")).setting
    assert (NOTE in setting.candidate.info.notes) == bool(square)
