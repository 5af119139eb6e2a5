"""Models left in training mode: other images of the batch, or chance, decide the scores of one."""

from __future__ import annotations

from itertools import chain, count

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from onnx import TensorProto, helper
from torch import nn

from robustcheck.errors import CandidateError
from robustcheck.models.evaluation_mode import check_evaluation_mode
from robustcheck.models.onnx.session import Session
from robustcheck.models.pytorch.unregistered import first_in_training, unregistered


class Sensitive(nn.Module):
    """Many features to drop, so that two draws are never the same."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)
        self.bn = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(16, 2)

    def forward(self, image):
        return self.fc(self.drop(self.bn(self.conv(image)).abs().mean((2, 3))))


def _sensitive(training=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = Sensitive().eval()
    if training:
        getattr(net, training).train()
    return net


@pytest.mark.filterwarnings("ignore:std():UserWarning")
def test_one_whose_answer_about_a_single_image_is_no_number_depends_on_the_others():
    def ask(images, _chunks):
        return (images.flatten(1).mean(dim=1, keepdim=True) / images.flatten(1).mean(dim=1).std()).repeat(1, 2)

    with pytest.raises(CandidateError, match="depend on the other images in the batch"):
        check_evaluation_mode(ask, tiny.pictures(3).shares(), 4, None)


def test_one_that_draws_among_two_answers_may_give_the_same_twice():
    """Of eight calls the first two agree, and one about single images does not, twice; a third time it does."""
    random = np.random.default_rng(0)
    alone = [0.0, 0.0, 1.0]
    answers = chain([0.0, 0.0, *alone, *alone, *alone, 0.0, 0.0, 0.0], (float(random.random() < 0.3) for _ in count()))
    images = tiny.pictures(3).shares()
    found = check_evaluation_mode(lambda some, _chunks: torch.full((len(some), 1), next(answers)), images, 4, None)
    assert found == (1.0, ())


@pytest.mark.parametrize("members", [2, 3])
def test_one_of_a_few_networks_is_drawn_at_each_call(members):
    """It is never taken to depend on company, and hardly ever to draw nothing: by chance one in 2 ** 9 of two."""
    images = tiny.pictures(4).shares()
    unnoticed = 0
    for seed in range(500):
        random = np.random.default_rng(seed)
        scores = torch.from_numpy(random.normal(size=(members, 1, 2)))
        found, notes = check_evaluation_mode(
            lambda some, _chunks, scores=scores, random=random: scores[random.integers(members)].expand(len(some), -1),
            images,
            4,
            None,
        )
        assert notes == ()
        unnoticed += found is None
    assert unnoticed <= 4


@pytest.mark.parametrize("company", [0.05, 1.0])
def test_one_that_draws_and_reads_an_image_otherwise_in_company(company):
    """Chance moves it by .01, or by what is far more than a single call in other company differs by."""
    random = np.random.default_rng(0)

    def ask(images, _chunks):
        return torch.from_numpy(random.normal(company * (len(images) > 1), company / 5, (len(images), 2)))

    images = tiny.pictures(3).shares()
    with pytest.raises(CandidateError, match=r"depend on the other images in the batch \(.* by chance\)"):
        check_evaluation_mode(ask, images, 4, None)
    found, (note,) = check_evaluation_mode(ask, images, 1, None)
    assert found > 0
    assert note.endswith("images are given to it one by one, as model.batch_size says")


@pytest.mark.parametrize("seed", range(20))
def test_one_that_draws_alike_in_any_company(seed):
    """Once for all images of a call, and seldom: one call in five is another."""
    random = np.random.default_rng(seed)

    def ask(images, _chunks):
        return torch.full((len(images), 2), float(random.random() < 0.2)) + torch.from_numpy(random.normal(0, 0.1, 2))

    assert check_evaluation_mode(ask, tiny.pictures(3).shares(), 4, None)[0] > 0


def test_what_is_in_training_mode_and_changes_nothing_is_noted():
    images = tiny.pictures(2).shares()
    found = check_evaluation_mode(lambda some, _chunks: some.flatten(1)[:, :2], images, 4, "bn")
    assert found == (None, ("bn is in training mode",))


@pytest.mark.parametrize("name", tiny.FORMATS)
def test_in_evaluation_mode(name, tmp_path):
    tiny.FORMATS[name](_sensitive(), tmp_path / name)
    tiny.load(tmp_path / name)


@pytest.mark.parametrize("name", tiny.FORMATS)
def test_batch_normalisation_in_training_mode(name, tmp_path):
    tiny.FORMATS[name](_sensitive("bn"), tmp_path / name)
    match = r"scores on one image depend on the other images in the batch .*training mode.*model\.eval\(\)"
    for number in (1, 6):
        with pytest.raises(CandidateError, match=match):
            tiny.load(tmp_path / name, tiny.pictures(number))


@pytest.mark.parametrize("name", tiny.FORMATS)
def test_batch_normalisation_in_training_mode_though_the_gates_ask_one_by_one(name, tmp_path):
    tiny.FORMATS[name](_sensitive("bn"), tmp_path / name)
    with pytest.raises(CandidateError, match="depend on the other images in the batch"):
        tiny.load(tmp_path / name, batch_size=1)


def _ask_in(sizes, *, most):
    """A network on whose images the brightest one of the batch decides, where there is memory for so many."""

    def ask(images, chunks):
        def part(some):
            sizes.append(len(some))
            if len(some) > most:
                raise MemoryError
            return (some.amax().expand(len(some), 1),)

        return chunks(part, images)[0]

    return ask


def test_one_image_at_a_time_where_two_do_not_fit(tmp_path):
    sizes, images = [], tiny.pictures(2).shares()
    with pytest.raises(CandidateError, match="depend on the other images"):
        check_evaluation_mode(_ask_in(sizes, most=2), images, 1, "bn")
    assert max(sizes) == 2
    found, (note,) = check_evaluation_mode(_ask_in(sizes, most=2), images, 1, None)  # as if quantised by the batch
    assert found is None
    assert note.endswith("images are given to it one by one, as model.batch_size says")
    with pytest.raises(CandidateError, match="depend on the other images"):
        check_evaluation_mode(_ask_in(sizes, most=4), images, 4, None)
    found, (note,) = check_evaluation_mode(_ask_in(sizes, most=1), images, 1, None)
    assert found is None
    assert note.endswith("could not be tested: two at once do not fit in memory")


def test_one_that_takes_a_single_image_is_refused_where_the_gates_give_it_several():
    def ask(images, _chunks):
        if len(images) > 1:
            raise CandidateError("one at a time")
        return images.flatten(1)[:, :2]

    def chunked(images, chunks):
        return chunks(lambda some: (ask(some, chunks),), images)[0]

    images = tiny.pictures(2).shares()
    found, (note,) = check_evaluation_mode(chunked, images, 1, None)
    assert found is None
    assert note.endswith("could not be tested: it takes one at a time")
    with pytest.raises(CandidateError, match="one at a time"):
        check_evaluation_mode(chunked, images, 4, None)


class Noisy(Sensitive):
    """Draws by design, and normalises by the batch by mistake."""

    def forward(self, image):
        return self.fc(self.drop(self.bn(self.conv(image + torch.randn_like(image))).abs().mean((2, 3))))


@pytest.mark.parametrize("name", tiny.FORMATS)
def test_a_network_that_draws_and_was_left_in_training_mode(name, tmp_path):
    noisy = Noisy()
    noisy.load_state_dict(_sensitive().state_dict())
    noisy.eval().bn.train()
    tiny.FORMATS[name](noisy, tmp_path / name)
    with pytest.raises(
        CandidateError, match=r"depend on chance .*\((bn|.*batch_norm.*|BatchNorm.*) is in training mode"
    ):
        tiny.load(tmp_path / name)
    tiny.FORMATS[name](noisy.eval(), tmp_path / name)
    assert tiny.load(tmp_path / name)[0].randomness > 0


@pytest.mark.parametrize(("steps", "allowed"), [(1, True), (4, True), (6, False)])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_few_steps_of_the_type_of_scores_are_the_image_s_own(kind, steps, allowed):
    """One of bfloat16 is .008 of the score."""

    def ask(images, _chunks):
        return torch.full((len(images), 2), 1 + steps * torch.finfo(kind).eps * (len(images) == 1), dtype=kind)

    def widened(images, chunks):
        return ask(images, chunks).float()

    images = tiny.pictures(2).shares()
    for given in ((ask, images, 8, None), (widened, images, 8, None, kind)):
        if allowed:
            assert check_evaluation_mode(*given) == (None, ())
        else:
            with pytest.raises(CandidateError, match="depend on the other images in the batch"):
                check_evaluation_mode(*given)


class Small(Sensitive):
    """Scores that are far below 1: logits, or probabilities of something rare."""

    def __init__(self, ending="logits"):
        super().__init__()
        self.ending = ending

    def forward(self, image):
        scores = self.fc(self.drop(self.bn(self.conv(image)).abs().mean((2, 3))))
        return 1e-4 * scores if self.ending == "logits" else (0.2 * scores[:, :1] - 8).sigmoid()


@pytest.mark.parametrize("ending", ["logits", "probabilities"])
@pytest.mark.parametrize("name", tiny.FORMATS)
def test_in_small_scores_other_images_count_as_in_large_ones(name, ending, tmp_path):
    net = Small(ending)
    net.load_state_dict(_sensitive().state_dict())
    given = {} if ending == "logits" else {"task": "binary", "positive": "ill"}
    tiny.FORMATS[name](net.eval(), tmp_path / name)
    for number in (1, 6):
        assert tiny.load(tmp_path / name, tiny.pictures(number), **given)[0].randomness is None
    net.bn.train()
    tiny.FORMATS[name](net, tmp_path / name)
    for number in (1, 6):
        with pytest.raises(CandidateError, match="depend on the other images in the batch"):
            tiny.load(tmp_path / name, tiny.pictures(number), **given)


def test_in_small_scores_chance_counts_as_in_large_ones(tmp_path):
    net = Small()
    net.load_state_dict(_sensitive().state_dict())
    net.eval().drop.train()
    tiny.save_script(net, tmp_path / "net.ts")
    with pytest.raises(CandidateError, match="depend on chance"):
        tiny.load(tmp_path / "net.ts")


@pytest.mark.parametrize(
    ("scores", "allowed"),
    [
        ([[1e-4, -1e-4], [-1e-4, 1e-4]], 2e-6),
        ([[1000.0, 1000.5], [1001.0, 1000.0]], 0.01),  # an offset tells nothing apart
        ([[0.0, 1.0], [1.0, 0.0]], 1e-3),
        ([[0.0, 1.0], [0.0, 1.0]], 80 * 2**-23),  # saturated alike
        ([[-1e-5, -11.5]], 11.5 * 80 * 2**-23),  # of one image only rounding is known
        ([[1e-12]], 1e-3 * 80 * 2**-23),
        ([[0.0], [0.0]], 1e-3 * 80 * 2**-23),
        ([[-1e9, 0.0, 1.0], [-1e9, 1.0, 0.0]], 1e-3),  # a label that is left out
    ],
)
def test_what_is_allowed_is_a_share_of_how_far_images_are_apart(scores, allowed):
    told = torch.tensor(scores)

    def ask_with(change):
        def ask(images, _chunks):
            if len(images) > 1:
                return torch.cat([told, told])
            return told[int(images.amax())][None] + change

        return ask

    images = torch.arange(len(told))[:, None, None, None].float()
    step = 2 * float(told[told > -1e9].abs().max()) * 2**-23
    assert check_evaluation_mode(ask_with(0.9 * allowed - step), images, 4, None) == (None, ())
    with pytest.raises(CandidateError, match="depend on the other images in the batch"):
        check_evaluation_mode(ask_with(1.1 * allowed + step), images, 4, None)


def test_of_one_image_the_image_beside_it_tells_how_large_scores_are():
    """A score near 0 is rounded as the larger numbers are that it is the sum of."""

    def ask(images, _chunks):
        return (images.flatten(1).mean(dim=1, keepdim=True) - 0.4) * 1000 + (3e-4 if len(images) > 1 else 0)

    assert check_evaluation_mode(ask, torch.full((1, 1, 2, 2), 0.4), 4, None) == (None, ())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_in_coarse_types_other_images_count_as_in_float32(kind):
    def ask(images, _chunks):
        own, beside = images.flatten(1).mean(dim=1, keepdim=True), images.mean()
        return (0.03 + 0.05 * (own - beside)).to(kind).float()

    images = torch.linspace(0, 0.6, 4)[:, None, None, None].expand(4, 1, 2, 2)
    with pytest.raises(CandidateError, match="depend on the other images in the batch"):
        check_evaluation_mode(ask, images, 4, None, kind)


class Halves(Sensitive):
    """Works in float16, and answers in float32."""

    def __init__(self):
        super().__init__()
        self.half()

    def forward(self, image):
        scores = self.fc(self.drop(self.bn(self.conv(image)).abs().mean((2, 3)))).float()
        return scores + 3 / 1024 * (torch.ones_like(scores).sum() < 3)  # three steps, of a single image


@pytest.mark.parametrize("name", ["net.safetensors", "net.ts", "net.pt2"])
def test_networks_of_halves_that_answer_in_float32(name, tmp_path):
    """A single image is multiplied by another kernel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = Halves().eval()
    tiny.SAVERS[name](net, tmp_path / name)
    options = {"architecture": "test_evaluation_mode:Halves"} if name == "net.safetensors" else {}
    tiny.load(tmp_path / name, **options)


@pytest.mark.parametrize("steps", [3, 6])
@pytest.mark.parametrize("answer", [TensorProto.FLOAT16, TensorProto.FLOAT])
@pytest.mark.parametrize("drawing", [False, True])
def test_graphs_of_halves_as_a_gpu_computes_them(drawing, answer, steps, tmp_path, monkeypatch):
    """Their scores come as float32, and differ by steps of float16 with the batch, or from call to call."""
    weights = np.random.default_rng(0).normal(size=(tiny.HEIGHT * tiny.WIDTH, 2)).astype(np.float32)
    model = tiny.save_linear_onnx(tmp_path / "net.onnx", weights, kind=TensorProto.FLOAT16)
    if answer == TensorProto.FLOAT:
        model.graph.node[-1].output[0] = "half"
        model.graph.node.append(helper.make_node("Cast", ["half"], ["scores"], to=TensorProto.FLOAT))
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
        onnx.save(model, tmp_path / "net.onnx")
    call, calls = Session.__call__, count()

    def as_on_a_gpu(self, inputs):
        scores = call(self, inputs)
        moved = next(calls) % 2 if drawing else len(inputs) == 1
        return scores * (1 + moved * steps * torch.finfo(torch.float16).eps)

    monkeypatch.setattr(Session, "__call__", as_on_a_gpu)
    if steps == 3:
        assert tiny.load(tmp_path / "net.onnx")[0].randomness is None
    elif drawing:
        assert tiny.load(tmp_path / "net.onnx")[0].randomness > 0
    else:
        with pytest.raises(CandidateError, match="depend on the other images in the batch"):
            tiny.load(tmp_path / "net.onnx")


class DroppingLast(Sensitive):
    """ONNX Runtime takes a dropout out of a graph wherever something comes after it."""

    def forward(self, image):
        return self.drop(self.fc(self.bn(self.conv(image)).abs().mean((2, 3))))


def test_active_dropout_of_onnx(tmp_path):
    net = DroppingLast().eval()
    net.drop.train()
    tiny.FORMATS["old.onnx"](net, tmp_path / "net.onnx")
    with pytest.raises(CandidateError, match=r"depend on chance .*\(Dropout is in training mode\).*model\.eval\(\)"):
        tiny.load(tmp_path / "net.onnx")


@pytest.mark.parametrize("name", ["net.ts", "trace.ts", "net.pt2"])
def test_active_dropout(name, tmp_path):
    tiny.FORMATS[name](_sensitive("drop"), tmp_path / name)
    with pytest.raises(CandidateError, match=r"scores on one image depend on chance .*dropout.*model\.eval\(\)"):
        tiny.load(tmp_path / name)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_program_of_a_fixed_batch_in_training_mode(batch, tmp_path):
    tiny.save_exported(_sensitive("bn"), tmp_path / "net.pt2", batch=None, number=batch)
    if batch == 1:  # each image is normalised by itself alone: strange, but no image changes another's scores
        tiny.load(tmp_path / "net.pt2")
    else:
        with pytest.raises(CandidateError, match="depend on the other images in the batch"):
            tiny.load(tmp_path / "net.pt2")


class OnVectors(nn.Module):
    """In training mode this normalisation refuses a single image."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(30, 2)
        self.bn = nn.BatchNorm1d(2)

    def forward(self, image):
        return self.bn(self.fc(image.flatten(1)))


def test_a_network_that_fails_on_one_image(tmp_path):
    quiet = OnVectors().train()
    tiny.quietly(lambda: torch.jit.save(torch.jit.script(quiet), str(tmp_path / "net.ts")))
    with pytest.raises(CandidateError, match=r"fails on one image alone, as a model in training mode.*model\.eval\(\)"):
        tiny.load(tmp_path / "net.ts")


def test_state_dicts_are_set_to_evaluation_mode(tmp_path):
    torch.save(_sensitive().train().state_dict(), tmp_path / "net.pt")
    _, logits = tiny.load(tmp_path / "net.pt", architecture="test_evaluation_mode:Sensitive")
    torch.testing.assert_close(logits, _sensitive()(tiny.pictures().shares()).detach())


class Folds(nn.Module):
    """Torch does not see these: neither does `eval()` reach them, nor are their weights in the state dict."""

    def __init__(self, *, dropout=True, norm=True, meant=False):
        super().__init__()
        self.folds = [_sensitive() for _ in range(3)]
        for fold in self.folds:
            fold.train()
            fold.drop = nn.Dropout(0.3 * dropout)
            fold.bn.train(norm)
            if meant:
                fold.eval()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image):
        return torch.stack([fold(image) for fold in self.folds]).mean(dim=0) * self.scale


@pytest.mark.parametrize(
    ("options", "what"), [({}, "chance"), ({"norm": False}, "chance"), ({"dropout": False}, "the other images")]
)
def test_folds_in_a_plain_list_stay_in_training_mode(options, what, tmp_path):
    torch.save({"scale": torch.ones(1)}, tmp_path / "net.pt")
    given = {"architecture": "test_evaluation_mode:Folds", "architecture_args": options}
    match = (
        rf"depend on {what}.*\(folds\[0\]\.\w+ is in training mode\); "
        r"robustcheck calls eval\(\).*a plain list.*ModuleList"
    )
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.pt", **given)
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.pt", **given, batch_size=1)


def test_folds_in_a_plain_list_that_are_in_evaluation_mode(tmp_path):
    torch.save({"scale": torch.ones(1)}, tmp_path / "net.pt")
    options = {"architecture": "test_evaluation_mode:Folds", "architecture_args": {"meant": True}}
    candidate, logits = tiny.load(tmp_path / "net.pt", **options)
    assert any("the weights of folds[0] come from its code, not from the file" in note for note in candidate.info.notes)
    torch.testing.assert_close(logits, _sensitive()(tiny.pictures().shares()).detach())


@pytest.mark.parametrize("hide", [tuple, lambda some: {"a": some}, lambda some: some[0]])
def test_layers_that_torch_does_not_see(hide):
    net = tiny.tiny_net()
    object.__setattr__(net.conv, "hidden", hide([tiny.tiny_net().train()]))
    net.layers = [net.bn, net.drop]  # its own
    held = unregistered(net.eval())
    (where,) = held
    assert where.startswith("conv.hidden")
    assert first_in_training(held) == f"{where}.bn"
    held[where].eval()
    assert first_in_training(held) is None


class Keeps(Sensitive):
    """A layer of its own stays in training mode, whatever `eval()` says."""

    def __init__(self, layer, where):
        super().__init__()
        self.layer, self.where = layer, where

    def train(self, mode=True):
        super().train(mode)
        if self.where == "train":
            getattr(self, self.layer).train()
        return self

    def forward(self, image):
        if self.where == "forward":
            getattr(self, self.layer).train()
        return super().forward(image)


@pytest.mark.parametrize("where", ["train", "forward"])
@pytest.mark.parametrize(("layer", "what"), [("drop", "chance"), ("bn", "the other images")])
def test_layers_that_the_network_s_own_code_sets_to_training_mode(layer, what, where, tmp_path):
    torch.save(_sensitive().state_dict(), tmp_path / "net.pt")
    options = {"architecture": "test_evaluation_mode:Keeps", "architecture_args": {"layer": layer, "where": where}}
    meant = ".*by design, call torch.nn.functional.dropout" if layer == "drop" else ""
    match = rf"depend on {what}.*\({layer} is in training mode\); .*take out what sets them to training mode{meant}$"
    for size in ("auto", 1):
        with pytest.raises(CandidateError, match=match):
            tiny.load(tmp_path / "net.pt", **options, batch_size=size)


def test_a_network_that_is_itself_a_layer_in_training_mode_is_named_by_its_kind():
    assert first_in_training({"": nn.Dropout()}) == "Dropout"


class DropsByFunction(Sensitive):
    """Dropout of which no layer tells; its default is to be active."""

    def forward(self, image):
        return nn.functional.dropout(super().forward(image))


def test_who_forgets_the_mode_of_dropout_by_function_is_told(tmp_path):
    """Only where the file says nothing of a mode: of others, `model.eval()` was the exporter's to call."""
    torch.save(_sensitive().state_dict(), tmp_path / "net.pt")
    tiny.save_trace(DropsByFunction().eval(), tmp_path / "net.ts")
    options = {"architecture": "test_evaluation_mode:DropsByFunction"}
    for name, given, told in (("net.pt", options, True), ("net.ts", {}, False)):
        candidate, _ = tiny.load(tmp_path / name, **given)
        assert candidate.randomness > 0
        (note,) = [note for note in candidate.info.notes if "depend on chance" in note]
        assert ("torch.nn.functional.dropout without training=self.training" in note) == told


class OfTheBatch(Sensitive):
    """Somebody meant it, or forgot the axes."""

    def forward(self, image):
        return super().forward(image / image.std())


def test_who_means_the_batch_to_count_is_told_of_single_images(tmp_path):
    torch.save(_sensitive().state_dict(), tmp_path / "net.pt")
    options = {"architecture": "test_evaluation_mode:OfTheBatch"}
    with pytest.raises(CandidateError, match=r"a plain list.*; if that is intended .*model\.batch_size: 1$"):
        tiny.load(tmp_path / "net.pt", **options)
    tiny.load(tmp_path / "net.pt", **options, batch_size=1)


@pytest.mark.parametrize("name", ["net.pt", "net.ts"])
def test_dynamically_quantised_layers_are_the_cause_that_is_told(name, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 2))
    net = tiny.quietly(torch.ao.quantization.quantize_dynamic, layers.eval(), {nn.Linear})
    if name == "net.pt":
        tiny.quietly(torch.save, net, tmp_path / name)
    else:
        tiny.save_script(net, tmp_path / name)
    given = {"trust": "pickle", "architecture": None} if name == "net.pt" else {}
    match = (
        r"^the candidate's scores on one image depend on the other images in the batch \(they differ by [\d.e-]+\), "
        r"because its dynamically quantised layers .* over the whole batch; set model\.batch_size: 1$"
    )
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / name, **given)
    tiny.load(tmp_path / name, **given, batch_size=1)


def test_torchscript_is_asked_in_the_mode_it_ships_in(tmp_path):
    """Without layers that mind it, a forgotten eval() changes nothing, and nothing is said."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)).train()
    tiny.save_script(net, tmp_path / "net.ts")
    _, logits = tiny.load(tmp_path / "net.ts")
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach())


def test_what_is_no_plain_list_or_dictionary_is_not_looked_through():
    """As a configuration whose values are looked up when they are asked for."""

    class Lazy(dict):
        def items(self):
            raise KeyError("unresolved")

    net = torch.nn.Linear(2, 2)
    net.config, net.held = Lazy(a=1), {"a": [torch.nn.Linear(1, 1)]}
    assert list(unregistered(net)) == ["held['a'][0]"]
