"""Networks that answer with more than a tensor of scores: dictionaries, tuples, and classes that are one of them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import tiny_models as tiny
import torch
from torch.utils import _pytree

from robustcheck.errors import CandidateError

ZEROS = torch.zeros(6, dtype=torch.int64)


class Scored(NamedTuple):
    scores: torch.Tensor
    features: torch.Tensor


@dataclass
class Fields:
    loss: None
    scores: torch.Tensor
    features: torch.Tensor


@dataclass
class Answer(OrderedDict):
    """As transformers' answers are: a dictionary whose class an exported program names."""

    logits: torch.Tensor

    def __post_init__(self):
        self["logits"] = self.logits


def _register(kind):
    name = f"{__name__}.{kind.__name__}"
    _pytree.register_pytree_node(
        kind, lambda a: (list(a.values()), list(a)), lambda values, _: kind(*values), serialized_type_name=name
    )


@pytest.fixture(autouse=True)
def registered():
    if Answer not in _pytree.SUPPORTED_NODES:
        _register(Answer)
    yield
    if Answer in _pytree.SUPPORTED_NODES:
        _pytree._deregister_pytree_node(Answer)


class Net(tiny.TinyNet):
    """Its forms of answer, by the name of one."""

    def __init__(self, form="dictionary"):
        super().__init__()
        self.form = form

    def forward(self, image):
        scores = super().forward(image)
        features = image.flatten(1)
        if self.form == "boxes":
            return [{"boxes": row[None, :4], "scores": row[:1]} for row in features]
        return {
            "dictionary": {"features": features, "scores": scores},
            "one": {"logits": scores},
            "pair": (features, scores),
            "decided": (scores, scores.argmax(1)),
            "hidden": (scores, [features]),
            "fields": Fields(None, scores, features),
            "lone": Fields(None, scores, None),
            "named": Scored(scores, features),
            "class": Answer(scores),
        }[self.form]


def _net(form):
    net = Net(form)
    net.load_state_dict(tiny.tiny_net().state_dict())
    return net.eval()


def _trace(net, path):
    trace = tiny.quietly(torch.jit.trace, net, tiny.image_for(net), check_trace=False, strict=False)
    tiny.quietly(torch.jit.save, trace, str(path))


SAVERS = {"net.safetensors": tiny.save_safetensors, "net.ts": _trace, "net.pt2": tiny.save_exported}
CHOSEN = {"dictionary": "scores", "pair": "1", "named": "scores", "fields": "scores"}
ALONE = ["one", "decided", "hidden", "class"]


def _load(name, form, tmp_path, net=None, **options):
    net = net or _net(form)
    SAVERS[name](net, tmp_path / name)
    if name == "net.safetensors":
        options |= {"architecture": "test_output_selection:Net", "architecture_args": {"form": form}}
    return tiny.load(tmp_path / name, **options)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("net.safetensors", form) for form in (*CHOSEN, *ALONE, "lone")),
        *(("net.ts", form) for form in ("dictionary", "one", "pair", "named")),  # torch saves no others as they are
        *(("net.pt2", form) for form in ("dictionary", "pair", *ALONE)),
    ],
)
def test_the_scores_are_found(name, form, tmp_path):
    wanted = CHOSEN.get(form)
    if name == "net.ts" and form == "named":
        wanted = "0"  # a trace makes a plain tuple of it
    candidate, logits = _load(name, form, tmp_path, output_name=wanted)
    net, images = tiny.tiny_net(), tiny.pictures().shares().requires_grad_()
    scores = net(images)
    torch.testing.assert_close(logits, scores.detach())
    (expected,) = torch.autograd.grad(scores[:, 0].sum(), images)
    _, _, gradient = candidate.gradient(images.detach(), ZEROS, ZEROS, lambda logits, *_: logits[:, 0])
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("form", CHOSEN)
def test_of_several_outputs_it_is_asked_which(form, tmp_path):
    told = {"dictionary": "features (float32 6×30), scores", "pair": "0 (float32 6×30), 1", "named": "scores (float32"}
    told["fields"] = "loss (NoneType), scores (float32 6×2), features (float32 6×30)"
    with pytest.raises(CandidateError) as caught:
        _load("net.safetensors", form, tmp_path)
    assert told[form] in str(caught.value)
    assert str(caught.value).endswith("name the one that has the scores in model.output_name")


@pytest.mark.parametrize(
    ("form", "wanted", "match"),
    [
        (
            "pair",
            "2",
            r"no output '2', which model\.output_name asks for; it has 0 \(float32 6×30\), 1 \(float32 6×2\)",
        ),
        ("boxes", None, r"has 6 outputs \(0 \(dict\).*none of them is a tensor of scores: .* a detector"),
        ("boxes", "0", "answers with dict, not with one tensor of scores: have forward return the logits"),
        ("fields", "logits", r"no output 'logits', which .*; it has loss \(NoneType\), scores"),
        ("hidden", "1", "answers with list, not with one tensor of scores"),
        ("decided", "1", r"answers with torch\.int64, not with one tensor of scores"),
    ],
)
def test_an_output_that_has_no_scores(form, wanted, match, tmp_path):
    with pytest.raises(CandidateError, match=match):
        _load("net.safetensors", form, tmp_path, output_name=wanted)


def test_a_name_for_the_only_output(tmp_path):
    tiny.save_safetensors(tiny.tiny_net(), tmp_path / "net.safetensors")
    with pytest.raises(CandidateError, match="asks for 'scores', but the candidate has one output and no names"):
        tiny.load(tmp_path / "net.safetensors", output_name="scores")


@pytest.mark.parametrize("form", ["one", "dictionary", "pair", "named", "fields"])
def test_searches_ask_a_faster_form_all_the_same(form, tmp_path):
    candidate, _ = _load("net.safetensors", form, tmp_path, output_name=CHOSEN.get(form), precision="auto")
    assert any("batch norm folded" in note for note in candidate.info.notes)


def test_a_class_of_a_program_is_read_as_a_dictionary_and_not_imported(tmp_path):
    tiny.save_exported(_net("class"), tmp_path / "net.pt2")
    assert b"test_output_selection.Answer" in tiny.member(tmp_path / "net.pt2", "models/model.json")
    _pytree._deregister_pytree_node(Answer)
    _, logits = tiny.load(tmp_path / "net.pt2")
    torch.testing.assert_close(logits, tiny.tiny_net()(tiny.pictures().shares()).detach())


class Named(tiny.TinyNet):
    def forward(self, *, pixels):
        return super().forward(pixels)


class Mapped(tiny.TinyNet):
    def forward(self, batch):
        return super().forward(batch["image"])


@pytest.mark.parametrize(
    ("kind", "arguments", "named"), [(Named, (), {"pixels": None}), (Mapped, ({"image": None},), {})]
)
def test_a_program_whose_one_input_has_a_name(kind, arguments, named, tmp_path):
    net = kind().eval()
    net.load_state_dict(tiny.tiny_net().state_dict())
    image, any_batch = tiny.image_for(net), {0: torch.export.Dim("batch")}
    if named:
        program = torch.export.export(net, (), {"pixels": image}, dynamic_shapes={"pixels": any_batch})
    else:
        program = torch.export.export(net, ({"image": image},), dynamic_shapes=({"image": any_batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    _, logits = tiny.load(tmp_path / "net.pt2")
    torch.testing.assert_close(logits, tiny.tiny_net()(tiny.pictures().shares()).detach())
