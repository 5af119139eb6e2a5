"""A project with policies, and the ways in which a user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from building import brightness_policy, brightness_project

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

# Without xdist loaded, with it loaded and unused, with one worker, and with two.
MODES = {"plain": ["-p", "no:xdist"], "n0": ["-n0"], "n1": ["-n1"], "n2": ["-n2"]}


@pytest.fixture(params=["plain", "n0", "n2"])
def mode(request: pytest.FixtureRequest) -> list[str]:
    """Arguments for each way in which tests are spread over processes."""
    return MODES[request.param]


@pytest.fixture(params=["plain", "n1"])
def plain_or_worker(request: pytest.FixtureRequest) -> list[str]:
    """As `mode`, where it makes no difference that xdist is loaded and unused, nor how many workers there are."""
    return MODES[request.param]


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """A project with a policy of which one gate fails, one of which all pass, and tests of its own."""
    brightness_project(pytester.path)
    (pytester.path / "policy.yaml").write_text(brightness_policy(GATES))
    (pytester.path / "passing.yaml").write_text(brightness_policy(PASSING))
    pytester.makepyfile(test_own="def test_own():\n    assert True\n")
    return pytester.path
