"""Small checkpoints in which one object stands in very many places."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import tiny_models as tiny
import torch

from robustcheck.models.pytorch.checkpoint import lists_beside, weights_in
from robustcheck.models.pytorch.torchscript_tensors import check_tensors


class _Counted(Mapping):
    """A dictionary that counts how often somebody walks through it."""

    def __init__(self, held):
        self.held, self.walks = held, 0

    def __getitem__(self, key):
        return self.held[key]

    def __iter__(self):
        self.walks += 1
        return iter(self.held)

    def __len__(self):
        return len(self.held)


def test_a_dictionary_under_many_keys_is_looked_into_once(net):
    shared = _Counted({"epoch": 3, "net": net.state_dict()})
    folds = {f"fold{i}": shared for i in range(50)}
    weights_in({f"run{i}": folds for i in range(50)})
    assert shared.walks <= 60  # once for what is in it, and for each key to see that it is no state dict


def test_a_dictionary_that_holds_itself(net):
    content = {"net": net.state_dict()}
    content.update({f"again{i}": content for i in range(10)})
    assert set(weights_in(content)) <= {"net", *(".".join(["again0"] * i) + ".net" for i in range(1, 6))}
    assert list(lists_beside({"again": content}, list(net.parameters()))) == []


def test_lists_under_many_keys_are_found_once(net):
    shared = {"shadow_params": list(net.parameters())}
    found = list(lists_beside({f"ema{i}": shared for i in range(5)}, list(net.parameters())))
    assert found == ["ema0.shadow_params"]


def test_an_argument_that_holds_itself_often_is_not_compared(tmp_path, net):
    width = [1]
    for _ in range(14):  # 16,384 times
        width = [width, width]
    torch.save({"state_dict": net.state_dict(), "hyper_parameters": {"labels": width}}, tmp_path / "net.pt")
    notes = tiny.load(tmp_path / "net.pt")[0].info.notes
    assert any("saved with 1 argument not compared" in note for note in notes)


def test_pickles_are_not_compared_with_every_member(monkeypatch):
    """Which twenty thousand of them are too many for."""
    asked = []

    class _Name(str):
        def startswith(self, *given):
            asked.append(given)
            return super().startswith(*given)

        def casefold(self):
            return self

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for i in range(20):
            opened.writestr(f"{i}/data.pkl", b"\x80\x02N.")
    infolist = zipfile.ZipFile.infolist

    def named(self):
        for member in (members := infolist(self)):
            member.filename = _Name(member.filename)
        return members

    monkeypatch.setattr(zipfile.ZipFile, "infolist", named)
    check_tensors(archive)
    assert len(asked) <= 20
