"""The form of the network that searches ask: faster, the same function, and never the one that judges."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny_models as tiny
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cosine_similarity

from robustcheck.attacks import objective
from robustcheck.models import WhiteBox, load_candidate
from robustcheck.models.fast import endings, fast_form
from robustcheck.models.head import Head
from robustcheck.models.twin import convert
from robustcheck.threats import Goal

NATIVE = fast_form._multiplies_bfloat16(tiny.CPU)
LOSS = objective("cross_entropy", Goal(labels=2))


class Wide(nn.Module):
    """Mostly convolutions, as image networks are; `ending` comes after the last layer."""

    def __init__(self, ending: nn.Module | None = None, outputs: int = 2, gain: float = 1.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(16, outputs)
        self.ending, self.gain = ending or nn.Identity(), gain

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.ending(self.gain * self.head(self.features(image).mean((2, 3))))


class Functional(Wide):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(super().forward(image), dim=1)


class Branching(Wide):
    """Cannot be traced: what it does depends on the numbers that it sees."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores = super().forward(image)
        return scores if float(scores.sum().detach()) > -1e9 else -scores


class Grouped(Wide):
    def __init__(self) -> None:
        super().__init__()
        self.features[3] = nn.Conv2d(8, 16, 3, padding=1, groups=4)


class Viewing(Wide):
    """Relies on the memory layout that it was written for."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.features(image)
        return self.head(features.view(len(image), -1)[:, :16])


class Negated(nn.Module):
    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return -scores


class Shallow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(tiny.HEIGHT * tiny.WIDTH, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image.flatten(1))


def _saved(tmp_path, module: nn.Module, **options):
    """A candidate of a module; the architecture's file says how to build it again."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in module.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.running_mean, layer.weight.data, layer.bias.data):
                    tensor.uniform_(0.5, 1.5)
    module.eval()
    save_file(module.state_dict(), tmp_path / "net.safetensors")
    name = type(module).__name__
    arguments = {"outputs": module.head.out_features} if isinstance(module, Wide) and name == "Wide" else {}
    if arguments:
        arguments["ending"], arguments["gain"] = module.ending, module.gain
    options = {"architecture": f"test_fast_form:{name}", "architecture_args": arguments, **options}
    options.setdefault("precision", "auto")
    return tiny.load(tmp_path / "net.safetensors", tiny.pictures(9), **options)[0]


def _notes(candidate) -> str:
    return " ".join(candidate.info.notes)


def test_the_faster_form_says_what_it_is_and_agrees(tmp_path):
    candidate = _saved(tmp_path, Wide())
    words = "batch norm folded, channels-last" + (", bfloat16" if NATIVE else "")
    assert f"searches use a faster form of it ({words})" in _notes(candidate)
    images, labels = tiny.pictures(9).shares(), torch.zeros(9, dtype=torch.int64)
    logits, loss, gradient = candidate.gradient(images, labels, labels, LOSS)
    exact_logits, exact_loss, exact = candidate.gradient(images, labels, labels, LOSS, exact=True)
    assert logits.dtype == loss.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(logits, exact_logits, rtol=0.05, atol=0.02)
    assert (loss - exact_loss).abs().max() <= 3 * candidate.search_form.error + 1e-6
    assert cosine_similarity(gradient.flatten(1), exact.flatten(1)).min() > 0.95


def test_one_score_an_image_without_an_axis_of_its_own_has_a_faster_form_too(tmp_path):
    candidate = _saved(tmp_path, Wide(nn.Flatten(0), outputs=1), task="binary")
    assert "searches use a faster form of it" in _notes(candidate)
    labels = torch.zeros(9, dtype=torch.int64)
    assert candidate.gradient(tiny.pictures(9).shares(), labels, labels, LOSS)[2].any()


def test_where_nobody_measured_the_layout_it_is_left(tmp_path, monkeypatch):
    """As on a GPU that does not multiply bfloat16."""
    monkeypatch.setattr(fast_form, "_multiplies_bfloat16", lambda _device: False)
    monkeypatch.setattr(fast_form, "_gains_by_layout", lambda _device: False)
    candidate = _saved(tmp_path, Wide())
    assert "searches use a faster form of it (batch norm folded)" in _notes(candidate)
    assert candidate.search_form.forward(tiny.pictures(9).shares()).shape == (9, 2)
    assert all(weights.is_contiguous() for weights in candidate.search_form.forward.parameters())
    assert _saved(tmp_path, Branching()).search_form is None  # there is nothing to gain


def test_a_gpus_layout_is_not_measured():
    assert fast_form._gains_by_layout(tiny.CPU)
    assert not fast_form._gains_by_layout(torch.device("cuda"))


def test_verdicts_are_the_artefacts_own_to_the_last_bit(tmp_path):
    module = Wide().eval()
    candidate = _saved(tmp_path, module)
    assert candidate.asked_channels_last  # by oracles
    images = tiny.pictures(9).shares()
    with torch.no_grad():
        assert torch.equal(candidate.logits(images), module(images))
        assert torch.equal(candidate.network.forward(images), module(images))
    assert all(weights.dtype == torch.float32 for weights in candidate.network.module.parameters())
    assert all(weights.is_contiguous() for weights in candidate.network.module.parameters())


def test_precision_full_asks_the_artefact(tmp_path):
    candidate = _saved(tmp_path, Wide(), precision="full")
    assert candidate.search_form is None
    assert "faster" not in _notes(candidate)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Branching(), "(channels-last" if NATIVE else "(channels-last)"),
        (Grouped(), "(batch norm folded, channels-last)"),
    ],
)
def test_what_cannot_be_traced_or_does_not_gain_is_left_as_it_is(tmp_path, module, words):
    assert words in _notes(_saved(tmp_path, module))


def test_a_network_that_relies_on_its_layout_is_asked_as_it_is(tmp_path):
    candidate = _saved(tmp_path, Viewing())
    assert candidate.search_form is None
    assert not candidate.info.notes


def test_the_comparison_does_not_depend_on_the_batch(monkeypatch, tmp_path):
    monkeypatch.setattr(
        fast_form, "_multiplies_bfloat16", lambda _device: True
    )  # or the forms differ by last bits only
    (tmp_path / "one").mkdir()
    (tmp_path / "all").mkdir()
    one, every = _saved(tmp_path / "one", Wide(), batch_size=1), _saved(tmp_path / "all", Wide(), batch_size=16)
    assert one.search_form.error > 1e-4
    assert one.search_form.error == pytest.approx(every.search_form.error, rel=1e-3)


def test_how_steep_margins_are_is_told_a_unit_of_a_ball_s_radius(monkeypatch, tmp_path):
    monkeypatch.setattr(fast_form, "_multiplies_bfloat16", lambda _device: True)
    candidate = _saved(tmp_path, Wide(), preprocess={"mean": 0.5, "std": 0.25})
    images = tiny.pictures(9).shares().requires_grad_()
    scores = candidate.network.module(candidate.preprocess(images))
    (gradient,) = torch.autograd.grad((scores[:, 0] - scores[:, 1]).abs().sum(), images)
    told = candidate.search_form.steepness
    assert told["linf"] == pytest.approx(float(gradient.flatten(1).norm(p=1, dim=1).median()), rel=0.05)
    assert told["l2"] == pytest.approx(float(gradient.flatten(1).norm(p=2, dim=1).median()), rel=0.05)
    radius = candidate.search_form.error / told["linf"]
    assert [candidate.search_form.resolves("linf", share * radius) for share in (0.9, 1.1)] == [False, True]


def test_how_steep_margins_are_is_told_of_the_nearest(monkeypatch, tmp_path):
    """Of three labels the third one's margin is another, and the farthest."""
    monkeypatch.setattr(fast_form, "_multiplies_bfloat16", lambda _device: True)
    candidate = _saved(tmp_path, Wide(outputs=3), labels=("healthy", "ill", "worse"))
    images = tiny.pictures(9).shares().requires_grad_()
    first, second, _ = candidate.network.module(images).sort(dim=1, descending=True).values.unbind(dim=1)
    (gradient,) = torch.autograd.grad((first - second).sum(), images)
    told = candidate.search_form.steepness
    assert told["linf"] == pytest.approx(float(gradient.flatten(1).norm(p=1, dim=1).median()), rel=0.05)
    assert told["l2"] == pytest.approx(float(gradient.flatten(1).norm(p=2, dim=1).median()), rel=0.05)


def test_how_far_a_twin_is_from_its_graph_is_part_of_the_error(monkeypatch, tmp_path):
    """What the faster form shows is to be looked at where either of the two may be wrong."""
    monkeypatch.setattr(fast_form, "_multiplies_bfloat16", lambda _device: False)
    tiny.save_onnx_old(tiny.tiny_net(), tmp_path / "net.onnx")
    candidate, logits = tiny.load(tmp_path / "net.onnx", precision="auto")
    assert candidate.search_form.error < 1e-5
    make = convert.converted

    def larger(model):
        module = make(model)
        output = next(node for node in module.graph.nodes if node.op == "output")
        with module.graph.inserting_before(output):
            output.replace_input_with(output.args[0], module.graph.call_function(torch.mul, (output.args[0], 1.0005)))
        return module

    monkeypatch.setattr(convert, "converted", larger)
    error = tiny.load(tmp_path / "net.onnx", precision="auto")[0].search_form.error
    assert error == pytest.approx(5e-4 * float((logits[:, 0] - logits[:, 1]).abs().max()), rel=0.05)


def test_the_errors_of_a_twin_and_of_its_faster_form_add_up(monkeypatch, tmp_path):
    monkeypatch.setattr(fast_form, "_multiplies_bfloat16", lambda _device: False)
    faster = fast_form.faster
    monkeypatch.setattr(fast_form, "faster", lambda *given: replace(faster(*given), error=0.5))
    monkeypatch.setattr(fast_form, "margin_error", lambda *_, **__: 0.25)
    tiny.save_onnx_old(tiny.tiny_net(), tmp_path / "net.onnx")
    assert tiny.load(tmp_path / "net.onnx", precision="auto")[0].search_form.error == 0.75


def test_probabilities_that_round_to_an_end_are_no_distance():
    """In float32 the log-odds of the two are 16.6 and 87."""
    head = Head(
        labels=("a", "b"), binary=True, outputs_probabilities=True, positive=None, operating_point=None, found=""
    )
    almost = 1 - 2.0**-24
    scores = [torch.tensor([[almost], [0.5]])]
    same = fast_form.margin_error(lambda one: one, lambda one: one + (one == almost) * 2.0**-24, scores, head, most=10)
    assert same == 0
    shifted = fast_form.margin_error(lambda one: one, lambda one: one + (one == 0.5) * 0.01, scores, head, most=10)
    assert shifted == pytest.approx(0.04, rel=0.01)


def test_a_peeled_form_that_reads_otherwise_is_not_used(monkeypatch, tmp_path):
    def other(module, _ending):
        module = copy.deepcopy(module)
        module.network.ending, module.network.gain = nn.Identity(), -1.0
        return module

    monkeypatch.setattr(endings, "leave_off", other)
    assert "last softmax" not in _notes(_saved(tmp_path, Wide(nn.Softmax(dim=1))))


def test_a_network_without_convolutions_has_no_faster_form(tmp_path):
    assert _saved(tmp_path, Shallow()).search_form is None


@pytest.mark.parametrize(
    "module", [Wide(nn.Softmax(dim=1), gain=1e5), Functional(gain=1e5)], ids=["module", "function"]
)
@pytest.mark.parametrize("precision", ["auto", "full"])
def test_a_softmax_that_is_sure_is_left_off_and_its_gradient_is_there(tmp_path, module, precision):
    arguments = {"architecture_args": {"gain": 1e5}} if type(module) is Functional else {}
    candidate = _saved(tmp_path, module, precision=precision, **arguments)
    images = tiny.pictures(9).shares()
    raw = candidate.network.forward(images)
    labels = raw.argmax(dim=1)
    assert (raw.amax(dim=1) == 1).all()  # in float32 the artefact's own gradient is zero here
    assert "searches use the input of its last softmax" in _notes(candidate)
    for exact in (False, True):
        logits, loss, gradient = candidate.gradient(images, labels, labels, LOSS, exact=exact)
        assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()
        assert (loss < 0).all()
        torch.testing.assert_close(WhiteBox(candidate, exact=exact).scores(labels, images), logits)
    before_softmax = candidate.bare.forward(images)
    assert torch.equal(candidate.gradient(images, labels, labels, LOSS, exact=True)[0], before_softmax)  # in float32
    assert torch.equal(before_softmax.softmax(dim=1), raw)


def test_a_sigmoid_that_is_sure_is_left_off(tmp_path):
    candidate = _saved(tmp_path, Wide(nn.Sigmoid(), outputs=1, gain=1e5), task="binary", output="probabilities")
    images = tiny.pictures(9).shares()
    raw = candidate.network.forward(images).squeeze(1)
    assert ((raw == 0) | (raw == 1)).all()
    labels = (raw > 0.5).long()
    for exact in (False, True):
        _, _, gradient = candidate.gradient(images, labels, labels, LOSS, exact=exact)
        assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()


def test_a_form_that_disagrees_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(fast_form, "with_batch_norms_folded", lambda traced, **_: nn.Sequential(traced, Negated()))
    candidate = _saved(tmp_path, Wide())
    assert candidate.search_form is None
    assert "faster" not in _notes(candidate)


@pytest.mark.parametrize(("misled", "used"), [(2, True), (3, False)])
def test_a_form_whose_gradients_are_useless_on_some_images_is_not_used(monkeypatch, tmp_path, misled, used):
    """Three cosines of 0 leave a mean of .81."""
    candidate, images = _saved(tmp_path, Wide()), tiny.pictures(16)
    darker = candidate.preprocess(images.shares()).flatten(1).mean(dim=1).sort().values[misled]
    noise = torch.randn(tiny.HEIGHT, tiny.WIDTH, generator=torch.Generator().manual_seed(5))

    def misleading(forward):
        def answer(inputs):
            scores, other = forward(inputs), (inputs * noise).flatten(1).sum(dim=1, keepdim=True)
            wrong = scores.detach() + (other - other.detach()) * torch.tensor([1.0, -1.0])
            return torch.where(inputs.flatten(1).mean(dim=1, keepdim=True) < darker, wrong, scores)

        return answer

    monkeypatch.setattr(fast_form, "_channels_last", misleading)
    found, _ = tiny.load(
        tmp_path / "net.safetensors",
        images,
        architecture="test_fast_form:Wide",
        architecture_args={"ending": nn.Identity()},
        precision="auto",
    )
    assert (found.search_form is not None) == used


class Bright(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Parameter(torch.tensor(0.5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        excess = image.flatten(1).mean(dim=1) - self.middle
        return torch.stack([-excess, excess], dim=1)


def test_forms_are_compared_on_images_of_every_reading(monkeypatch, tmp_path):
    """Folders are read one label's after another's."""
    save_file({"middle": torch.tensor(0.5)}, tmp_path / "net.safetensors")
    images = tiny.Pictures([np.full((1, 6, 5), level, np.uint8) for level in [*range(40), *range(200, 210)]])
    compared = list[torch.Tensor]()
    monkeypatch.setattr(fast_form, "faster", lambda _module, example, _reading: compared.extend(example))
    for seed in (0, 0, 1):
        spec = tiny.spec("net.safetensors", architecture="test_fast_form:Bright")
        load_candidate(spec, folder=tmp_path, samples=images, seed=seed)
    first, again, other = (torch.round(one[:, 0, 0, 0] * 255) for one in compared)
    assert len(first) == 16
    assert 0 < (first >= 200).sum() < 16
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_forms_are_compared_on_images_of_one_shape(tmp_path):
    """Whatever shapes lie between them."""
    tiny.save_safetensors(tiny.tiny_net(), tmp_path / "net.safetensors")
    small, large = tiny.pictures(4), tiny.pictures(4, height=8, width=9)
    mixed = [one.image(index) for index in range(4) for one in (small, large)]
    candidate, _ = tiny.load(tmp_path / "net.safetensors", tiny.Pictures(mixed), precision="auto")
    assert candidate.search_form is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_faster_form_agrees_as_well(tmp_path):
    candidate = _saved(tmp_path, Wide(), device="cuda")
    assert candidate.search_form is not None
    assert ("bfloat16" in _notes(candidate)) == (torch.cuda.get_device_capability() >= (8, 0))
    images = tiny.pictures(9).shares().cuda()
    labels = torch.zeros(9, dtype=torch.int64, device="cuda")
    _, _, gradient = candidate.gradient(images, labels, labels, LOSS)
    _, _, exact = candidate.gradient(images, labels, labels, LOSS, exact=True)
    assert cosine_similarity(gradient.flatten(1), exact.flatten(1)).min() > 0.9
