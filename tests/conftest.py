"""What the tests of several folders share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests import ONNX Runtime themselves

# pytest reads this file in every run from here, also where only robustcheck itself is installed.
if find_spec("hypothesis"):
    from hypothesis import settings

    # Time tells nothing about these properties, and machines that run them are busy.
    settings.register_profile("robustcheck", deadline=None)
    settings.load_profile("robustcheck")


# Files that take a minute or more, or half a minute and would come last. Processes that share the files begin with
# these, or one of them ends alone.
LONG = (
    "test_gates",
    "test_collecting",
    "test_black_box_xrays",
    "test_same_answer",
    "test_closed_forms",
    "test_policies",
    "test_qualify",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the order is otherwise pytest's."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def _the_same_draws() -> Iterator[None]:
    """torch's generator begins alike in each test, and goes on afterwards as if there had been none."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts; a shell has what it runs in the background ignore it, and a script's tests with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def xrays() -> Path:
    """The PneumoniaMNIST archive, which lies beside the project and never in it; mark such tests `xrays`."""
    path = Path(__file__).parents[1].parent / "shared" / "data" / "pneumoniamnist.npz"
    if not path.is_file():
        pytest.skip(f"needs the PneumoniaMNIST archive at {path}")
    return path
