from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TinyNet, load, pictures, save_exported, save_script, tiny_net

from robustcheck.errors import CandidateError


@pytest.fixture(scope="session")
def net() -> TinyNet:
    """One tiny network for all formats; nobody changes it."""
    return tiny_net()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, net: TinyNet) -> Path:
    """The tiny network as a torch.export program that takes any number of images."""
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    save_exported(net, path)
    return path


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory, net: TinyNet) -> Path:
    """The tiny network as TorchScript."""
    path = tmp_path_factory.mktemp("scripted") / "net.ts"
    save_script(net, path)
    return path


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What a payload makes; it must not be there afterwards."""
    return tmp_path / "the-payload-ran"


@pytest.fixture
def refused(marker: Path) -> Callable[..., None]:
    """Assert that a candidate is refused with a sentence in one line, and that nothing of it ran."""

    def check(path: Path, match: str, **options: Any) -> None:
        def use() -> None:
            load(path, **options)[0].logits(pictures().shares())

        with pytest.raises(CandidateError, match=match) as caught:
            use()
        assert not marker.exists()
        assert "\n" not in str(caught.value)

    return check
