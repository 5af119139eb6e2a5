"""A project with policies, and the ways in which a user runs them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from building import brightness_policy, brightness_project
from execnet import gateway_io
from forked_workers import ForkedWorker
from forking import FORKS

GATES = """
  - id: clean
    require: {accuracy: 1.0}
  - id: fgsm
    attack: fgsm
    epsilon: 2/255
    require: {accuracy: 0.6}
  - id: pgd
    attack: {name: pgd, steps: 4}
    epsilon: [1/255, 4/255]
    require: {accuracy: [0.8, 0.9]}
"""
PASSING = GATES.replace("0.9]", "0.4]")

# What gates load when they first need it. After a run in this process pytester forgets modules that were not there
# before, and the next run would load them again, with classes that are not those of the first.
LOADED_LATE = ["robustcheck.evaluation.evaluation", "robustcheck.report.output", "torch.utils.flop_counter"]
if FORKS:
    LOADED_LATE += ["multiprocessing.forkserver", "multiprocessing.popen_forkserver"]  # which know the server

# Without xdist loaded, with it loaded and unused, with one worker, and with two.
MODES = {"plain": ["-p", "no:xdist"], "n0": ["-n0"], "n1": ["-n1"], "n2": ["-n2"]}


@pytest.fixture(scope="session", autouse=True)
def loaded() -> None:
    """Load for all runs what would be loaded by each."""
    for module in LOADED_LATE:
        import_module(module)


@pytest.fixture(autouse=True)
def _workers_begin_with_the_libraries_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of runs in this process; runs in a process of their own have workers as users have them."""
    if FORKS:
        monkeypatch.setattr(gateway_io, "Popen2IOMaster", ForkedWorker)


@pytest.fixture(params=["plain", "n0", "n2"])
def mode(request: pytest.FixtureRequest) -> list[str]:
    """Arguments for each way in which tests are spread over processes."""
    return MODES[request.param]


@pytest.fixture(params=["plain", "n2"])
def plain_or_two(request: pytest.FixtureRequest) -> list[str]:
    """As `mode`, where an xdist that is loaded and unused can make no difference."""
    return MODES[request.param]


@pytest.fixture(params=["plain", "n1"])
def plain_or_worker(request: pytest.FixtureRequest) -> list[str]:
    """As `plain_or_two`, where it makes no difference among how many workers gates are spread."""
    return MODES[request.param]


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """A project with a policy of which one gate fails, one of which all pass, and tests of its own."""
    brightness_project(pytester.path)
    (pytester.path / "policy.yaml").write_text(brightness_policy(GATES))
    (pytester.path / "passing.yaml").write_text(brightness_policy(PASSING))
    pytester.makepyfile(test_own="def test_own():\n    assert True\n")
    return pytester.path
