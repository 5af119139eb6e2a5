"""What is seen of a model's file before anything is loaded: how it is named, and the names in it."""

from __future__ import annotations

import zipfile

import pytest

from robustcheck import load_policy
from robustcheck.errors import PolicyError

POLICY = """robustcheck: 1
model: {{path: {path}, task: multiclass, labels: [normal, pneumonia], {more}}}
data: {{source: phantom:nodule}}
gates:
  - {{id: clean, require: {{accuracy: 0.8}}}}
"""


def _archive(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")


@pytest.mark.parametrize("more", ["", "architecture: 'nets:net'", "trust: pickle"])
@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        ("constants.pkl", "found 'net.pt', which is TorchScript, not a state dict; rename it to end in .ts"),
        (
            "archive_format",
            "found 'net.pt', which is a torch.export program, not a state dict; rename it to end in .pt2",
        ),
    ],
)
def test_a_whole_model_that_is_named_as_a_state_dict(member, sentence, more, folder, write):
    _archive(folder / "net.pt", "net/data.pkl", f"net/{member}")
    with pytest.raises(PolicyError) as caught:
        load_policy(write(POLICY.format(path="net.pt", more=more)))
    assert [(problem.key, problem.message) for problem in caught.value.problems] == [("model.path", sentence)]


@pytest.mark.parametrize("name", ["net.pt", "net.pth.tar", "checkpoint.tar", "net.ckpt"])
def test_what_training_scripts_save(name, folder, write):
    _archive(folder / name, "net/data.pkl", "net/data/0")
    policy = write(POLICY.format(path=name, more="architecture: 'nets:net', weights: model_ema"))
    assert load_policy(policy).model.weights == "model_ema"
    with pytest.raises(PolicyError, match=r"a state dict \(\.\w+\) needs model\.architecture"):
        load_policy(write(POLICY.format(path=name, more="")))


def test_a_pickle_may_be_a_whole_network(folder, write):
    (folder / "net.safetensors").touch()
    _archive(folder / "net.pt", "net/data.pkl", "net/data/0")
    for name, told in (("net.pt", True), ("net.safetensors", False)):
        with pytest.raises(PolicyError, match=r"needs model\.architecture") as caught:
            load_policy(write(POLICY.format(path=name, more="")))
        whole = "; or, if it is a whole network from torch.save that you trust, model.trust: pickle"
        assert str(caught.value).endswith(whole) == told


@pytest.mark.parametrize("name", ["our-vit", "our-vit/", "vit.onnx"])
def test_a_folder_of_transformers(name, folder, write):
    (folder / name).mkdir()
    (folder / name / "config.json").touch()
    (folder / name / "model.safetensors").touch()
    with pytest.raises(
        PolicyError, match=r"is a folder written by transformers' save_pretrained; save the state dict"
    ) as caught:
        load_policy(write(POLICY.format(path=name, more="")))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model-00001-of-00002.safetensors"])
def test_a_folder_of_transformers_hides_no_other_mistake(weights, folder, write):
    (folder / "our-vit").mkdir()
    for file in ("config.json", weights):
        (folder / "our-vit" / file).touch()
    with pytest.raises(PolicyError, match=r"is a folder written by transformers' save_pretrained") as caught:
        load_policy(write(POLICY.format(path="our-vit", more="operators: [ops.so]")))
    assert "operators: found it beside a path without an ending; it is about .onnx files" in str(caught.value)


def test_a_folder_with_a_configuration_alone_is_not_of_transformers(folder, write):
    (folder / "our-app").mkdir()
    (folder / "our-app" / "config.json").touch()
    with pytest.raises(PolicyError, match=r"found 'our-app'; a candidate is \.onnx") as caught:
        load_policy(write(POLICY.format(path="our-app", more="")))
    assert "transformers" not in str(caught.value)


def test_a_file_that_is_no_archive_is_left_to_loading(folder, write):
    (folder / "net.pt").write_bytes(b"PK\x03\x04 cut short")
    assert load_policy(write(POLICY.format(path="net.pt", more="architecture: 'nets:net'"))).gates
