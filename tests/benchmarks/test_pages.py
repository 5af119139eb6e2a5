"""What is printed: as soon as it is there, with what disturbed it, and compared as is fair."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import gating
from benchmarks.candidates import CANDIDATES
from benchmarks.onnx_zoo import Line, export, images, judge, summary
from benchmarks.page import publish
from benchmarks.query_job import QueryMeasurement
from benchmarks.query_pairs import PAIRS
from benchmarks.query_results import QueryRecord, section


def test_what_was_finished_is_printed_and_kept_when_the_rest_is_not(tmp_path, capsys):
    def tables():
        yield "a table"
        assert "a table" in capsys.readouterr().out
        assert (tmp_path / "page.md").read_text() == "the heading\n\na table\n"
        raise KeyboardInterrupt

    assert publish(["the heading"], tables(), out=tmp_path / "page.md") == 130
    assert "interrupted" in capsys.readouterr().err


def test_what_cannot_be_answered_is_a_sentence(capsys):
    def tables():
        yield "a table"
        raise gating.UnansweredError("pgd: samples: found 1000")

    assert publish([], tables()) == 1
    assert capsys.readouterr().err == "pgd: samples: found 1000\n"


def test_a_run_that_was_interrupted_is_no_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(gating, "load_policy", lambda path: path)
    monkeypatch.setattr(gating, "run", lambda *_, **__: SimpleNamespace(interrupted=True, gates=()))
    with pytest.raises(KeyboardInterrupt):
        gating.answered(tmp_path / "policy.yaml")


def test_an_attack_that_did_not_work_is_measured_as_it_is(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        gating, "run", lambda policy, **_: asked.append(policy) or SimpleNamespace(interrupted=False, gates=())
    )
    gating.gated(
        CANDIDATES["cnn-standard"], [{"id": "pgd", "attack": "pgd", "epsilon": "4/255"}], tmp_path, samples=None
    )
    assert [policy.health for policy in asked] == ["warn"]


def _record(title: str, left: float, as_floats: float | None, *, elsewhere: float = 0.0) -> QueryRecord:
    done = QueryMeasurement(
        seconds=1.0, images=10, attacked=5, clean=0.9, left=left, left_as_floats=as_floats, to_success=None
    )
    how = None if as_floats is None else "as it does"
    return QueryRecord(title=title, how=how, rounds=[done], elsewhere=[elsewhere])


def test_a_peer_is_taken_at_its_best():
    ours, rounding, leaving = _record("ours", 0.1, None), _record("A", 0.8, 0.3), _record("B", 0.5, 0.6)
    told = section(PAIRS["boundary"], "0.5", 100, [ours, rounding, leaving])
    assert "as floats or stored (A): -0.200." in told


@pytest.mark.parametrize(("elsewhere", "loud"), [(0.1, False), (0.14, True)])
def test_what_others_took_stands_below_the_numbers(elsewhere, loud):
    told = section(PAIRS["boundary"], "0.5", 100, [_record("ours", 0.1, None, elsewhere=elsewhere)])
    assert told.splitlines()[-1].startswith(f"Other processes took {elsewhere:.0%} of the machine in the noisiest")
    assert ("more than the 10%" in told) is loud


RIGHT = Line(exported=True, loaded=True, agrees=True, twin=0.5, artefact=0.5)


@pytest.mark.parametrize(
    ("lines", "held"),
    [
        ({"new": [RIGHT], "old": [RIGHT]}, True),
        ({"new": [RIGHT] * 19 + [Line(exported=True)]}, True),
        ({"new": [RIGHT] * 18 + [Line(exported=True)]}, False),
        ({"new": [RIGHT], "old": [Line(exported=False)]}, False),
        ({"new": [Line(exported=False)]}, False),
        ({"new": [RIGHT, Line(exported=True, loaded=True, agrees=True, twin=0.5, artefact=0.5, otherwise=2)]}, False),
    ],
)
def test_exports_pass_on_something(lines, held):
    said, passed = summary(lines)
    assert passed is held
    assert ("made none" in said) is (not all(any(line.exported for line in some) for some in lines.values()))


@pytest.mark.xrays
def test_an_export_is_loaded_and_attacked(xrays, tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network = torch.nn.Sequential(network, torch.nn.Linear(4, 2)).eval().requires_grad_(False)
    some = images(xrays, 16, 2)
    export(network, some, tmp_path / "network.onnx", dynamo=False, batch=None)
    line = judge(tmp_path / "network.onnx", some)
    assert (line.loaded, line.agrees, line.otherwise, line.why) == (True, True, 0, "")
    assert line.twin == line.artefact
