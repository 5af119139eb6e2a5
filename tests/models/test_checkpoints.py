"""Checkpoints of training scripts: which of the things in them is judged, and whole networks that are pickled."""

from __future__ import annotations

import importlib
import shutil
import sys
import warnings

import pytest
import tiny_models as tiny
import torch
from torch.optim.swa_utils import AveragedModel

from robustcheck.errors import CandidateError

MODEL, EMA = tiny.tiny_net(seed=1), tiny.tiny_net(seed=2)


def _optimiser():
    net = tiny.tiny_net()
    optimiser = torch.optim.Adam(net.parameters())
    net(tiny.pictures().shares()).sum().backward()
    optimiser.step()
    return optimiser.state_dict()


def _said(path, **options):
    with pytest.raises(CandidateError) as caught:
        tiny.load(path, **options)
    return str(caught.value)


def _is(logits, net):
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", ["net", "network", "model_state", "weights", "model", "state_dict"])
@pytest.mark.parametrize("name", ["net.pt", "net.pth.tar", "net.ckpt"])
def test_the_only_weights_are_taken_whatever_their_key(key, name, tmp_path):
    torch.save({"epoch": 3, key: MODEL.state_dict(), "optimizer": _optimiser(), "acc": 0.9}, tmp_path / name)
    candidate, logits = tiny.load(tmp_path / name, architecture="tiny_models:TinyNet")
    _is(logits, MODEL)
    assert f"its weights are those under {key!r} in the file" in candidate.info.notes
    assert candidate.info.format == "state-dict"
    assert candidate.info.weights is None


def test_a_state_dict_alone_is_not_noted(tmp_path):
    torch.save(MODEL.state_dict(), tmp_path / "net.pt")
    assert not tiny.load(tmp_path / "net.pt")[0].info.notes


def norms_and_directions():
    net = tiny.TinyNet()
    torch.nn.utils.parametrizations.weight_norm(net.conv)
    torch.nn.utils.parametrizations.weight_norm(net.fc)
    return net


@pytest.fixture
def formerly():
    """Such a network as torch built it before 2.0, whose weights had other names."""
    net = tiny.tiny_net(seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it still can, and says not to
        for part in (net.conv, net.fc):
            torch.nn.utils.weight_norm(part)
    return net


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("wrapping", ["", "module."])
def test_former_names_are_taken_where_torch_takes_them(wrapping, counted, formerly, tmp_path):
    state = {wrapping + name: value for name, value in formerly.state_dict().items() if counted or "num_b" not in name}
    torch.save(state, tmp_path / "net.pt")
    candidate, logits = tiny.load(tmp_path / "net.pt", architecture="test_checkpoints:norms_and_directions")
    _is(logits, formerly.eval())
    assert (
        "torch takes conv.weight_g, conv.weight_v, fc.weight_g, … in the file for "
        "conv.parametrizations.weight.original0, conv.parametrizations.weight.original1, "
        "fc.parametrizations.weight.original0, … of the network"
    ) in candidate.info.notes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state | {"conv.weight_v": torch.ones(3, 1, 5, 5)}, "original1 is (3, 1, 5, 5) in the file"),
        (lambda state: state | {"conv.weight_g": torch.ones(3, 1, 1, 1, dtype=torch.int8)}, "original0 (int8)"),
        (lambda state: state | {"other": torch.ones(1)}, "but also other, for"),
        (lambda state: {name: value for name, value in state.items() if name != "fc.weight_g"}, "2 missing: fc.para"),
    ],
)
def test_what_has_former_names_is_checked_as_everything_is(change, sentence, formerly, tmp_path):
    torch.save(change(dict(formerly.state_dict())), tmp_path / "net.pt")
    assert sentence in _said(tmp_path / "net.pt", architecture="test_checkpoints:norms_and_directions")


@pytest.mark.parametrize(("first", "second"), [("model", "model_ema"), ("state_dict", "state_dict_ema")])
def test_of_several_it_is_asked_which(first, second, tmp_path):
    averaged = AveragedModel(EMA).state_dict() if second == "model_ema" else EMA.state_dict()
    torch.save({first: MODEL.state_dict(), second: averaged, "epoch": 3}, tmp_path / "net.pt")
    assert _said(tmp_path / "net.pt") == (
        f"net.pt holds weights under '{first}', '{second}'; name the one to judge in model.weights"
    )
    for key, net in ((first, MODEL), (second, EMA)):
        candidate, logits = tiny.load(tmp_path / "net.pt", weights=key)
        _is(logits, net)
        assert candidate.info.weights == key
        assert f"its weights are those under {key!r} in the file" in candidate.info.notes


def test_weights_of_something_else_do_not_compete(tmp_path):
    held = {"model": MODEL.state_dict(), "loss": {"weight": torch.ones(2)}, "random": {"cpu": torch.get_rng_state()}}
    torch.save(held, tmp_path / "net.pt")
    _is(tiny.load(tmp_path / "net.pt")[1], MODEL)


def test_nested_weights(tmp_path):
    torch.save({"trainer": {"model": MODEL.state_dict(), "ema": EMA.state_dict()}}, tmp_path / "net.pt")
    assert "under 'trainer.model', 'trainer.ema'" in _said(tmp_path / "net.pt")
    _is(tiny.load(tmp_path / "net.pt", weights="trainer.ema")[1], EMA)


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        (
            {"model": MODEL.state_dict(), "epoch": 3},
            "net.pt has no weights under 'ema', which model.weights asks for; there are weights under 'model'",
        ),
        (
            {"epoch": 3, "acc": 0.9},
            "net.pt has no weights under 'ema', which model.weights asks for; there are the keys 'epoch', 'acc'",
        ),
        (
            MODEL.state_dict(),
            "net.pt has no weights under 'ema', which model.weights asks for; the file is itself a state dict: leave "
            "it out",
        ),
    ],
)
def test_weights_that_are_not_there(held, sentence, tmp_path):
    torch.save(held, tmp_path / "net.pt")
    assert _said(tmp_path / "net.pt", weights="ema") == sentence


@pytest.mark.parametrize("lost", [(), ("fc.weight",)])
def test_names_of_any_length_are_told_briefly(lost, tmp_path):
    """A file of a megabyte would otherwise make a sentence of one."""
    weights = {name: value for name, value in MODEL.state_dict().items() if name not in lost}
    for prefix in ("", "x" * 10_000 + "."):
        held = {prefix + name: value for name, value in weights.items()} | {"y" * 10_000: torch.zeros(1)}
        torch.save(held, tmp_path / "net.pt")
        said = _said(tmp_path / "net.pt", architecture="tiny_models:TinyNet")
        assert "yyy…" in said or "xxx…" in said
        assert len(said) < 2000


def test_a_long_key_that_leads_to_the_weights_is_told_briefly(tmp_path):
    torch.save({"x" * 10_000: MODEL.state_dict()}, tmp_path / "net.pt")
    (note,) = tiny.load(tmp_path / "net.pt", architecture="tiny_models:TinyNet")[0].info.notes
    assert note == f"its weights are those under '{'x' * 200}…' in the file"


def test_the_keys_are_told_where_no_weights_are(tmp_path):
    torch.save({"epoch": 3, "best\nof": torch.zeros(1), "optimizer": _optimiser()}, tmp_path / "net.pt")
    assert _said(tmp_path / "net.pt") == (
        "net.pt holds no state dict (names to tensors), but the keys 'epoch', 'best\\nof', 'optimizer'"
    )


@pytest.mark.parametrize(
    ("held", "keys"), [({0: torch.ones(1), 1: torch.ones(1)}, "'0', '1'"), ({"state": {0: torch.ones(1)}}, "'state'")]
)
def test_keys_that_are_no_names_are_told(held, keys, tmp_path):
    torch.save(held, tmp_path / "net.pt")
    assert _said(tmp_path / "net.pt").endswith(f"holds no state dict (names to tensors), but the keys {keys}")


@pytest.mark.parametrize("state", [{"opt": {"state": {"a": {"b": None}}}}, {"trained": {"adamw": {"exp_avg": None}}}])
def test_what_optimisers_keep_by_the_names_of_weights_is_no_average(state, tmp_path):
    def filled(part):
        return MODEL.state_dict() if part is None else {key: filled(value) for key, value in part.items()}

    torch.save({"model": MODEL.state_dict()} | filled(state), tmp_path / "net.pt")
    _is(tiny.load(tmp_path / "net.pt")[1], MODEL)


LIGHTNING = {
    "StochasticWeightAveraging": ("average_model_state", "callbacks.StochasticWeightAveraging.average_model_state"),
    "EMA{'decay': 0.99}": ("ema_state_dict", "callbacks.EMA{'decay': 0.99}.ema_state_dict"),
}


@pytest.mark.parametrize("callback", LIGHTNING)
def test_averages_that_callbacks_keep_are_several_too(callback, tmp_path):
    name, key = LIGHTNING[callback]
    held = {
        "state_dict": {f"model.{name}": value for name, value in MODEL.state_dict().items()},
        "callbacks": {callback: {name: EMA.state_dict()}, "ModelCheckpoint": {"best_k_models": {"a": torch.ones(1)}}},
        "optimizer_states": [_optimiser()],
        "loops": {"fit_loop": {"state_dict": {}, "saved": MODEL.state_dict()}},
    }
    torch.save(held, tmp_path / "net.ckpt")
    assert _said(tmp_path / "net.ckpt").endswith("; name the one to judge in model.weights")
    assert "loops" not in _said(tmp_path / "net.ckpt")
    _is(tiny.load(tmp_path / "net.ckpt", weights=key)[1], EMA)
    _is(tiny.load(tmp_path / "net.ckpt", weights="state_dict")[1], MODEL)


def test_what_is_named_is_found_anywhere(tmp_path):
    held = {"model": MODEL.state_dict(), "optimizer": {"slow": [{}, {"a.b": EMA.state_dict()}]}}
    torch.save(held, tmp_path / "net.pt")
    _is(tiny.load(tmp_path / "net.pt")[1], MODEL)
    _is(tiny.load(tmp_path / "net.pt", weights="optimizer.slow.1.a.b")[1], EMA)


def test_a_list_of_averages_is_noted(tmp_path):
    held = {"model": MODEL.state_dict(), "ema": {"shadow_params": list(EMA.parameters()), "collected": None}}
    torch.save(held, tmp_path / "net.pt")
    candidate, logits = tiny.load(tmp_path / "net.pt")
    _is(logits, MODEL)
    (note,) = (note for note in candidate.info.notes if "under 'ema.shadow_params'" in note)
    assert note == (
        "the file also holds tensors of the shapes of its parameters under 'ema.shadow_params', perhaps averages of "
        "weights; those under 'model' are judged"
    )


@pytest.mark.parametrize("key", [None, "model"])
@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("fc._packed_params.dtype", torch.qint8, "(dtype) is quantised weights, which are packed with their scales: "),
        ("fc.extra", 3, "(int) is not a tensor: leave it out when you save the state dict"),
    ],
)
def test_what_is_nearly_a_state_dict(name, value, cure, key, tmp_path):
    weights = {**MODEL.state_dict(), name: value}
    torch.save({key: weights, "epoch": 3} if key else weights, tmp_path / "net.pt")
    assert f"net.pt would hold a state dict, but '{name}' {cure}" in _said(tmp_path / "net.pt")


class Learner:
    """What fastai exports."""

    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize("architecture", [None, "tiny_models:TinyNet"])
def test_an_object_that_holds_a_network(architecture, tmp_path):
    torch.save(Learner(MODEL), tmp_path / "net.pt")
    assert _said(tmp_path / "net.pt", architecture=architecture, trust="pickle") == (
        "net.pt holds no state dict (names to tensors), but Learner; save the state_dict() of the network in it "
        "(for a Learner of fastai: learn.model.state_dict())"
    )


# --- what a checkpoint was built with ----------------------------------------------------------------------------


class Scaled(tiny.TinyNet):
    """Its weights are those of a `TinyNet`, whatever its arguments."""

    def __init__(self, temperature=1.0, prior=(0, 0), act="relu", **others):
        super().__init__()
        self.temperature, self.prior = temperature, torch.tensor(prior)
        self.act, self.others = act, others

    def forward(self, image):
        return super().forward(image) / self.temperature + self.prior


def scaled_as_trained():
    return Scaled(temperature=0.05)


def _checkpoint(path, saved, *, key="hyper_parameters", nested=False):
    held = {"state_dict": MODEL.state_dict(), key: saved}
    torch.save({"run": held} if nested else {"epoch": 3, **held}, path)
    return path


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("key", ["hyper_parameters", "hparams"])
def test_weights_of_a_network_with_other_arguments_are_not_judged(key, nested, tmp_path):
    path = _checkpoint(tmp_path / "net.ckpt", {"temperature": 0.05, "prior": [0, -2]}, key=key, nested=nested)
    assert _said(path, architecture="test_checkpoints:Scaled") == (
        "net.ckpt was saved with temperature=0.05, prior=[0, -2], but test_checkpoints:Scaled is built with "
        "temperature=1.0, prior=[0, 0]; set in model.architecture_args what to build it with"
    )
    arguments = {"temperature": 0.05, "prior": [0, -2]}
    candidate, logits = tiny.load(path, architecture="test_checkpoints:Scaled", architecture_args=arguments)
    expected = MODEL(tiny.pictures().shares()).detach() / 0.05 + torch.tensor([0, -2])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert not [note for note in candidate.info.notes if "saved with" in note]


@pytest.mark.parametrize("value", [None, True, 2, "gelu", 1.5, [0.0, 1]])
def test_any_plain_value_counts(value, tmp_path):
    path = _checkpoint(tmp_path / "net.ckpt", {"act": value})
    told = "[0.0, 1]" if isinstance(value, list) else repr(value)
    assert f"saved with act={told}, but test_checkpoints:Scaled is built with act='relu'" in _said(
        path, architecture="test_checkpoints:Scaled"
    )


class Trained(tiny.TinyNet):
    """With arguments of its training, and one whose default no policy can write."""

    def __init__(self, lr: float = 0.1, data_dir: str = "a", clr: int = 1, act: type = torch.nn.ReLU) -> None:
        super().__init__()


def test_what_training_alone_needs_and_what_cannot_be_compared_is_noted(tmp_path):
    arguments = {"lr": 0.001, "data_dir": "/scratch", "act": "relu", "clr": 1}
    path = _checkpoint(tmp_path / "net.ckpt", arguments)
    candidate, _ = tiny.load(path, architecture="test_checkpoints:Trained")
    notes = [note for note in candidate.info.notes if "saved with" in note]
    assert len(notes) == 2
    assert "saved with lr=0.001, data_dir='/scratch', but test_checkpoints:Trained is built with lr=0.1" in notes[0]
    assert notes[0].endswith("which by their names only training needs")
    assert notes[1].endswith("is built with: act")
    _checkpoint(path, {**arguments, "clr": 2})
    assert "saved with clr=2, but" in _said(path, architecture="test_checkpoints:Trained")


def test_the_same_arguments_are_not_noted(tmp_path):
    path = _checkpoint(tmp_path / "net.ckpt", {"temperature": 1, "prior": [0, 0], "act": "relu"})
    candidate, _ = tiny.load(path, architecture="test_checkpoints:Scaled")
    assert candidate.info.notes == ("its weights are those under 'state_dict' in the file",)


def test_a_policy_may_say_otherwise_and_it_is_noted(tmp_path):
    path = _checkpoint(tmp_path / "net.ckpt", {"temperature": 0.05, "act": "relu"})
    candidate, logits = tiny.load(
        path, architecture="test_checkpoints:Scaled", architecture_args={"temperature": 1.0, "act": "relu"}
    )
    _is(logits, MODEL)
    note = "the file was saved with temperature=0.05, but the policy says temperature=1.0"
    assert note in candidate.info.notes


@pytest.mark.parametrize("architecture", ["Scaled", "scaled_as_trained"])
def test_what_nothing_compares_is_noted(architecture, tmp_path):
    saved = {"lr": 0.1, "pos_weight": torch.ones(1)}
    path = _checkpoint(tmp_path / "net.ckpt", saved)
    candidate, _ = tiny.load(path, architecture=f"test_checkpoints:{architecture}")
    assert candidate.info.notes[1:] == (
        "the file was saved with 2 arguments not compared with what "
        f"test_checkpoints:{architecture} is built with: lr, pos_weight",
    )


# --- whole networks ----------------------------------------------------------------------------------------------

NETS = "import our_layers\n\nclass Net(our_layers.Base):\n    pass\n"
LAYERS = "import tiny_models\n\nclass Base(tiny_models.TinyNet):\n    pass\n"


@pytest.fixture
def pickled(tmp_path, monkeypatch):
    """A folder with a whole network of a class beside it, which this process has not imported."""
    (tmp_path / "our_nets.py").write_text(NETS)
    (tmp_path / "our_layers.py").write_text(LAYERS)
    monkeypatch.syspath_prepend(tmp_path)
    net = importlib.import_module("our_nets").Net().eval()
    net.load_state_dict(MODEL.state_dict())
    torch.save(net, tmp_path / "net.pt")
    torch.save({"epoch": 3, "model": net, "ema": None}, tmp_path / "checkpoint.pt")
    for name in ("our_nets", "our_layers"):
        del sys.modules[name]
    sys.path.remove(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["net.pt", "checkpoint.pt"])
def test_a_whole_network_whose_class_lies_beside_the_policy(name, pickled):
    candidate, logits = tiny.load(pickled / name, trust="pickle", architecture=None)
    _is(logits, MODEL)
    assert [file.path for file in candidate.info.files] == [name, "our_layers.py", "our_nets.py"]
    assert "our_nets" not in sys.modules
    (pickled / "our_layers.py").write_text(LAYERS + "\n")
    again, _ = tiny.load(pickled / name, trust="pickle", architecture=None)
    assert again.info.sha256 != candidate.info.sha256


def test_two_folders_with_classes_of_one_name(pickled, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for file in ("our_layers.py", "net.pt"):
        shutil.copy(pickled / file, other)
    (other / "our_nets.py").write_text(NETS.replace("pass", "def forward(self, image): return -super().forward(image)"))
    ours, _ = tiny.load(pickled / "net.pt", trust="pickle", architecture=None)
    theirs, logits = tiny.load(other / "net.pt", trust="pickle", architecture=None)
    _is(-logits, MODEL)
    torch.testing.assert_close(ours.logits(tiny.pictures().shares()), -theirs.logits(tiny.pictures().shares()))


def test_an_architecture_that_is_not_used_is_not_reported(pickled):
    candidate, logits = tiny.load(
        pickled / "net.pt", trust="pickle", architecture="torchvision.models:resnet18", architecture_args={"a": 1}
    )
    _is(logits, MODEL)
    assert candidate.info.architecture is None
    assert not candidate.info.architecture_args
    note = "the file holds the network itself: torchvision.models:resnet18, the architecture, is not used"
    assert note in candidate.info.notes
