"""The mistakes that people make with a candidate, and the sentences that they get."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import tiny_models as tiny
import torch
import torch.utils.checkpoint
from torch import nn

from robustcheck.errors import AccessError, CandidateError, UserCodeError

# --- what is there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["net.onnx", "net.pt", "net.safetensors", "net.ts", "net.pt2"])
def test_a_pointer_of_git_lfs_is_no_candidate(name, tmp_path):
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4166\n")
    match = rf"^{name} is a Git LFS pointer, not the file that it stands for: fetch that with `git lfs pull`$"
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / name)


# --- what goes in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["net.safetensors", "net.ts", "trace.ts", "net.pt2", "net.onnx"])
def test_grey_images_for_a_network_of_three_channels(name, tmp_path):
    save = {"net.safetensors": tiny.save_safetensors, "net.onnx": tiny.save_onnx_old, **tiny.FORMATS}[name]
    save(tiny.tiny_net(3), tmp_path / name)
    options = {"architecture_args": {"channels": 3}}
    match = r"does not take inputs of 1×6×5 \(channels × height × width\); set model\.preprocess\.channels: 3 \(.*3"
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / name, **options)
    _, logits = tiny.load(tmp_path / name, preprocess={"channels": 3}, **options)
    expected = tiny.tiny_net(3)(tiny.pictures().shares().expand(-1, 3, -1, -1))
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["net.pt2", "old.onnx"])
def test_images_of_another_size(name, tmp_path, net):
    tiny.FORMATS[name](net, tmp_path / name)
    with pytest.raises(CandidateError, match=r"inputs of 1×9×8 .*; set model\.preprocess\.resize: \[6, 5\]"):
        tiny.load(tmp_path / name, tiny.pictures(height=9, width=8))


def test_one_image_that_is_smaller_than_the_crop_is_told_before_the_network_is_asked(tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    images = tiny.Pictures([np.zeros((1, height, 5), np.uint8) for height in (6, 7, 5)])
    with pytest.raises(CandidateError, match=r"images of 5×5 are 5×5 before it; nothing is padded: crop less"):
        tiny.load(tmp_path / "net.safetensors", images, preprocess={"crop": [6, 5]})


class Unpooled(nn.Module):
    """A score for each row and finding: two of images of two rows, and four of images of four."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(1, 1, (1, 5))

    def forward(self, image):
        return self.last(image).flatten(1)


def test_scores_of_different_shapes_for_images_of_different_sizes(tmp_path):
    tiny.save_safetensors(Unpooled(), tmp_path / "net.safetensors")
    images = tiny.Pictures([np.zeros((1, height, 5), np.uint8) for height in (2, 4)])
    with pytest.raises(CandidateError, match="gives scores of different shapes for different samples"):
        tiny.load(tmp_path / "net.safetensors", images, architecture="test_candidate_mistakes:Unpooled")


@pytest.mark.parametrize("name", ["net.ts", "net.pt2", "old.onnx"])
def test_channels_last_for_a_network_that_has_them_first(name, tmp_path):
    tiny.FORMATS[name](tiny.tiny_net(3), tmp_path / name)
    with pytest.raises(CandidateError, match=r"; set model\.preprocess\.layout: NCHW \("):
        tiny.load(tmp_path / name, tiny.pictures(channels=3), preprocess={"layout": "NHWC"})


class Misregistered(nn.Module):
    """The layer that is registered first is not the one that sees the image."""

    def __init__(self):
        super().__init__()
        self.later = nn.Conv2d(8, 2, 1)
        self.first = nn.Conv2d(1, 8, 3)

    def forward(self, image):
        return self.later(self.first(image)).mean((2, 3))


def test_a_guess_about_the_first_layer_refuses_nothing(tmp_path):
    tiny.save_safetensors(Misregistered(), tmp_path / "net.safetensors")
    tiny.load(tmp_path / "net.safetensors", architecture="test_candidate_mistakes:Misregistered")
    tiny.save_script(Misregistered(), tmp_path / "net.ts")
    tiny.load(tmp_path / "net.ts")


class Careless(nn.Module):
    """Raises what no library would."""

    def forward(self, image):
        raise KeyError("no such thing")


class WithAge(tiny.TinyNet):
    def forward(self, image, age):
        return super().forward(image) * age


def test_a_network_of_more_than_an_image(tmp_path):
    net = WithAge().eval()
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    trace = tiny.quietly(torch.jit.trace, net, (tiny.image_for(net), torch.ones(1, 1)))
    tiny.quietly(torch.jit.save, trace, str(tmp_path / "net.ts"))
    for name, options in (("net.safetensors", {"architecture": "test_candidate_mistakes:WithAge"}), ("net.ts", {})):
        with pytest.raises(CandidateError) as caught:
            tiny.load(tmp_path / name, **options)
        assert str(caught.value).startswith("the candidate fails on inputs of 1×6×5 (channels × height × width): ")
        assert "a candidate takes only one image: wrap a network that takes more" in str(caught.value)


class Convolved(nn.Module):
    """Of volumes, as its layer's weights show."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 3)

    def forward(self, volume):
        return self.layer(volume).mean((2, 3, 4))


class Views(tiny.TinyNet):
    def forward(self, images):
        count, views, channels, height, width = images.shape
        each = super().forward(images.reshape(count * views, channels, height, width))
        return each.unflatten(0, (count, views)).mean(1)


@pytest.mark.parametrize("kind", [Convolved, Views])
def test_a_network_of_volumes_or_views(kind, tmp_path):
    tiny.save_safetensors(kind(), tmp_path / "net.safetensors")
    with pytest.raises(CandidateError, match=r"; a candidate takes one image of two dimensions: volumes and several"):
        tiny.load(tmp_path / "net.safetensors", architecture=f"test_candidate_mistakes:{kind.__name__}")


STRICT = """
import tiny_models


class Strict(tiny_models.TinyNet):
    def forward(self, image):
        assert image.shape[-2:] == (512, 512){}
"""


def test_an_assertion_that_says_nothing_is_told_by_its_line(tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    (tmp_path / "strict_nets.py").write_text(STRICT.format(""))  # not here: pytest has assertions say more
    match = (
        r"does not take inputs of 1×6×5 .*; set model\.preprocess\.resize, if that is about their size "
        r"\(assert image\.shape\[-2:\] == \(512, 512\), in strict_nets\.py, line 7\)$"
    )
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.safetensors", architecture="strict_nets:Strict")


@pytest.mark.parametrize(("words", "advised"), [("expected 512x512 got (6, 5)", True), ("no licence", False)])
def test_an_assertion_that_says_why(words, advised, tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    (tmp_path / "strict_nets.py").write_text(STRICT.format(f", {words!r}"))
    with pytest.raises(CandidateError) as caught:
        tiny.load(tmp_path / "net.safetensors", architecture="strict_nets:Strict")
    assert words in str(caught.value)
    assert ("set model.preprocess.resize" in str(caught.value)) == advised


class OfVolumes(nn.Module):
    """Looks at a dimension that images do not have."""

    def forward(self, image):
        return image.mean(dim=(2, 3, 4))


def test_a_dimension_that_is_not_there_may_be_due_to_the_shape(tmp_path):
    torch.save(OfVolumes(), tmp_path / "net.pt")
    with pytest.raises(CandidateError, match=r"does not take .*; set model\.preprocess \(Dimension out of range"):
        tiny.load(tmp_path / "net.pt", trust="pickle", architecture=None)


def test_code_that_raises_anything(tmp_path):
    tiny.save_safetensors(nn.Linear(1, 1), tmp_path / "net.safetensors")
    torch.save({"unused": torch.zeros(1)}, tmp_path / "net.pt")
    with pytest.raises(CandidateError, match=r"1 not in it: unused"):
        tiny.load(tmp_path / "net.pt", architecture="test_candidate_mistakes:Careless")
    torch.save(Careless(), tmp_path / "net.pt")
    with pytest.raises(
        CandidateError, match=r"fails on inputs of 1×6×5 \(channels × height × width\): 'no such thing'"
    ):
        tiny.load(tmp_path / "net.pt", trust="pickle")


@pytest.mark.parametrize(
    ("error", "likely"),
    [
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x30 and 400x2)"), True),
        (RuntimeError("The size of tensor a (197) must match the size of tensor b (10) at non-singleton dim 1"), True),
        (AssertionError("Input height (28) doesn't match model (224)."), True),
        (ValueError("The in_features inferred from input: 5 is not equal to in_features from self.weight: 3"), True),
        (ValueError("Expected more than 1 value per channel when training"), True),
        (NotImplementedError('Module [Net] is missing the required "forward" function'), False),
        (AttributeError("'tuple' object has no attribute 'shape'"), False),
        (TypeError("forward() missing 1 required positional argument: 'size'"), False),
        (ValueError("no such thing"), False),
    ],
)
def test_preprocessing_is_advised_where_it_may_help(error, likely, tmp_path, net, monkeypatch):
    def fail(_self, _image):
        raise error

    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    monkeypatch.setattr(tiny.TinyNet, "forward", fail)
    with pytest.raises(CandidateError) as caught:
        tiny.load(tmp_path / "net.safetensors")
    told = "the candidate does not take inputs of" if likely else "the candidate fails on inputs of"
    assert str(caught.value).startswith(told)
    assert ("set model.preprocess" in str(caught.value)) == likely
    assert str(error) in str(caught.value)


def test_of_images_of_which_nothing_is_left_an_example_of_resize_is_given(tmp_path):
    layers = [nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(4), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(8, 2)]
    torch.save(nn.Sequential(*layers), tmp_path / "net.pt")
    with pytest.raises(CandidateError) as caught:
        tiny.load(tmp_path / "net.pt", trust="pickle", architecture=None)
    advice = "; set model.preprocess.resize, to the size that it was made for, such as [224, 224] ("
    assert advice in str(caught.value)
    with pytest.raises(CandidateError) as caught:
        tiny.load(tmp_path / "net.pt", trust="pickle", architecture=None, preprocess={"resize": 300, "crop": [150, 7]})
    assert "; set model.preprocess.crop, and resize before it, to the size" in str(caught.value)
    assert "such as [300, 300] (" in str(caught.value)


def test_of_another_number_of_values_no_example_of_a_size_is_given(tmp_path):
    """Larger images and other channels come to that, too."""
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), tmp_path / "net.pt")
    with pytest.raises(CandidateError, match=r"does not take inputs of 1×6×5 .*; set model\.preprocess \(mat1"):
        tiny.load(tmp_path / "net.pt", trust="pickle", architecture=None)


# --- the weights and the architecture -------------------------------------------------------------------------------


class LacksAnArgumentInside(nn.Module):
    """No argument of its own would help."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3)


class OfAConfiguration(nn.Module):
    """Made as those of transformers are."""

    def __init__(self, config):
        super().__init__()
        raise OSError(f"{config} is not a local folder")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"architecture_args": {"labels": 3}},
            r"in net\.safetensors are not those of tiny_models:TinyNet with \{'labels': 3\} \(2 of another shape"
            r": fc\.weight is \(2, 3\) in the file and \(3, 3\) in the architecture, fc\.bias .*\); check model\.arch",
        ),
        (
            {"architecture": "torchvision.models:squeezenet1_1"},
            r"\(52 missing: features\.0\.weight, .*, …; 9 not in it: bn\..*, …\)",
        ),
        (
            {"architecture": "tiny_models:tiny_net", "architecture_args": {"kernel": 3}},
            r"tiny_net\(kernel=3\) failed: TypeError: [^;]*$",
        ),
        (
            {"architecture": "test_candidate_mistakes:LacksAnArgumentInside"},
            r"Inside\(\) failed: TypeError: [^;]* missing 1 required positional argument: 'out_features'$",
        ),
        (
            {"architecture": "test_candidate_mistakes:OfAConfiguration"},
            r"OfAConfiguration\(\) failed: TypeError: .* missing 1 required positional argument: 'config'; state it in "
            r"model\.architecture_args, or, if it takes more than plain arguments, write a function beside the policy "
            r"that makes the network \(docs/policy\.md, 'Networks of other packages'\)$",
        ),
        (
            {
                "architecture": "test_candidate_mistakes:OfAConfiguration",
                "architecture_args": {"config": "no-net"},
            },
            r"failed: OSError: no-net is not a local folder; if it takes more than plain arguments, write a function ",
        ),
        (
            {"architecture": "tiny_models:pictures"},
            r"tiny_models:pictures made an object of type Pictures, not a torch\.nn\.Module",
        ),
        ({"architecture": None}, r"a state dict needs model\.architecture, 'module:callable'"),
    ],
)
def test_a_wrong_architecture(options, match, tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.safetensors", **options)


class Renamed(tiny.TinyNet):
    """As a network of transformers, whose files have other names."""

    __module__ = "transformers.models.tiny"


def test_names_that_save_pretrained_gives_are_told(tmp_path, net):
    renamed = {name.replace("conv", "vit.embeddings"): value for name, value in net.state_dict().items()}
    torch.save(renamed, tmp_path / "net.pt")
    told = "; transformers' save_pretrained gives weights other names than the network"
    for architecture, is_told in (("test_candidate_mistakes:Renamed", True), ("tiny_models:TinyNet", False)):
        with pytest.raises(CandidateError, match=r"2 missing: conv\.weight, conv\.bias; 2 not in it: vit") as caught:
            tiny.load(tmp_path / "net.pt", architecture=architecture)
        assert (told in str(caught.value)) == is_told


def test_what_a_file_holds_beside_all_weights_may_be_part_of_the_network(tmp_path, net):
    torch.save(net.state_dict() | {"op_threshs": torch.ones(2)}, tmp_path / "net.pt")
    match = r"^net\.pt holds all weights of tiny_models:TinyNet, but also op_threshs, for which there is no place"
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.pt")


def test_weights_that_are_part_of_a_whole(tmp_path, net):
    """A training wrapper's own tensors may matter: nothing is left out in silence."""
    whole = {f"model.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": {"loss.weight": torch.ones(2), **whole}}, tmp_path / "net.ckpt")
    match = (
        r"net\.ckpt holds the weights of tiny_models:TinyNet under 'model\.', and beside them loss\.weight; name the"
    )
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.ckpt")


def test_an_architecture_that_is_not_there(tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    with pytest.raises(UserCodeError, match="no 'TinyNat'; did you mean 'TinyNet'"):
        tiny.load(tmp_path / "net.safetensors", architecture="tiny_models:TinyNat")


def test_lazy_layers_are_a_sentence(tmp_path, net):
    lazy = {"architecture": "torch.nn:LazyLinear", "architecture_args": {"out_features": 2}}
    tiny.save_safetensors(net.fc, tmp_path / "part.safetensors")
    with pytest.raises(CandidateError, match=r"does not take inputs of 1×6×5"):
        tiny.load(tmp_path / "part.safetensors", **lazy)
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    with pytest.raises(CandidateError, match=r"net\.safetensors .*"):
        tiny.load(tmp_path / "net.safetensors", **lazy)


def test_batches_need_not_have_been_counted(tmp_path, net):
    """Older files lack `num_batches_tracked`, which no answer depends on."""
    state = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "net.pt")
    tiny.load(tmp_path / "net.pt")


def test_weights_of_whole_numbers_have_lost_their_scale(tmp_path, net):
    state = {
        name: (value * 100).to(torch.int8) if "weight" in name else value for name, value in net.state_dict().items()
    }
    torch.save(state, tmp_path / "net.pt")
    match = (
        r"holds 3 quantised weights where tiny_models:TinyNet has floats: conv\.weight \(int8\), .*without their scales"
    )
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.pt")
    torch.save({**net.state_dict(), "fc.bias": net.fc.bias.detach().to(torch.float8_e4m3fn)}, tmp_path / "net.pt")
    with pytest.raises(CandidateError, match=r"1 quantised weights .*: fc\.bias \(float8_e4m3fn\)"):
        tiny.load(tmp_path / "net.pt")
    torch.save({**net.state_dict(), "fc.bias": torch.tensor([1, -1])}, tmp_path / "net.pt")  # Python's own numbers
    tiny.load(tmp_path / "net.pt")


def test_weights_of_another_precision_are_said(tmp_path, net):
    state = {name: value.bfloat16() if value.is_floating_point() else value for name, value in net.state_dict().items()}
    torch.save(state, tmp_path / "net.pt")
    notes = tiny.load(tmp_path / "net.pt")[0].info.notes
    assert "its weights are stored as bfloat16, but the network works in float32" in notes
    torch.save(net.state_dict(), tmp_path / "net.pt")
    assert not any("weights" in note for note in tiny.load(tmp_path / "net.pt")[0].info.notes)


# --- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(value, tmp_path):
    net = tiny.tiny_net()
    net.fc.bias.data[1] = value
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    with pytest.raises(CandidateError, match="gives NaN or infinite scores on 6 of 6 unattacked samples"):
        tiny.load(tmp_path / "net.safetensors")


def test_labels_that_do_not_match_the_head(tmp_path, net):
    tiny.save_exported(net, tmp_path / "net.pt2")
    with pytest.raises(CandidateError, match=r"gives 2 scores per sample, but model\.labels names 3 \(a, b, c\)"):
        tiny.load(tmp_path / "net.pt2", labels=("a", "b", "c"))
    with pytest.raises(CandidateError, match=r"a binary task has one score .*; did you mean task: multiclass\?"):
        tiny.load(tmp_path / "net.pt2", task="binary")


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (
            lambda image: image,
            r"scores have shape \(6, 1, 6, 5\); .* a map of scores \(segmentation\) is not supported",
        ),
        (lambda image: image.mean((2, 3)).sum(0, keepdim=True), r"answers 6 images with scores of shape \(1, 1\)"),
        (lambda image: image.sum(), r"answers 6 images with scores of shape \(\); the first axis"),
        (lambda image: None, "answers with NoneType, not with one tensor of scores: have forward return the logits"),
        (lambda image: image.mean((2, 3)).numpy(), "answers with ndarray, .*: have forward return the logits"),
        (
            lambda image: {"out": {"logits": image.mean((2, 3))}},
            "answers with dict, .*: have forward return the logits",
        ),
        (lambda image: image[:, 0, 0].argmax(1), r"answers with torch\.int64, not with one tensor of scores"),
    ],
)
def test_answers_that_are_no_rows_of_scores(answer, match, tmp_path, net, monkeypatch):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    monkeypatch.setattr(tiny.TinyNet, "forward", lambda _self, image: answer(image))
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.safetensors")


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 2), (2, 1)])
def test_axes_of_one_place_are_no_part_of_the_scores(shape, tmp_path, net, monkeypatch):
    """As convolutions leave them that stand for a last linear layer."""
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    whole = tiny.TinyNet.forward
    monkeypatch.setattr(tiny.TinyNet, "forward", lambda self, image: whole(self, image).unflatten(1, shape))
    candidate, logits = tiny.load(tmp_path / "net.safetensors")
    images = tiny.pictures().shares()
    torch.testing.assert_close(logits, whole(net, images).detach())
    labels = torch.zeros(len(images), dtype=torch.int64)
    assert candidate.gradient(images, labels, labels, lambda scores, *_: scores[:, 0])[2].any()


@pytest.mark.parametrize("squeeze", [lambda scores: scores.squeeze(), lambda scores: scores.squeeze(1), lambda s: (s,)])
def test_answers_that_are_squeezed_or_wrapped(squeeze, tmp_path, net, monkeypatch):
    """`scores.squeeze()` is (N,), and () for one image."""
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    whole = tiny.TinyNet.forward
    monkeypatch.setattr(tiny.TinyNet, "forward", lambda self, image: squeeze(whole(self, image)[:, :1]))
    candidate, logits = tiny.load(tmp_path / "net.safetensors", task="binary")
    images = tiny.pictures().shares()
    torch.testing.assert_close(logits[:, 1], whole(net, images)[:, 0].detach())
    torch.testing.assert_close(candidate.logits(images[:1]), logits[:1])


def test_logits_of_an_unsure_network_are_told_behind_a_window(tmp_path):
    """Brighter images would be cut off by it, and never leave what lies between 0 and 1."""
    tiny.save_safetensors(Unsure(), tmp_path / "net.safetensors")
    candidate, _ = tiny.load(
        tmp_path / "net.safetensors", task="binary", architecture="test_candidate_mistakes:Unsure",
        preprocess={"window": [0, 255]},
    )  # fmt: skip
    assert candidate.info.output.startswith("logits")
    assert "its window is 0 to 255 as stored, dark to bright" in candidate.info.notes


class Unsure(nn.Module):
    """One logit that is near 0.4 on every image, or its probability."""

    def __init__(self, sigmoid=False):
        super().__init__()
        self.fc = nn.Linear(30, 1)
        nn.init.constant_(self.fc.weight, 0.01)
        nn.init.constant_(self.fc.bias, 0.2)
        self.sigmoid = sigmoid

    def forward(self, image):
        logit = self.fc(image.flatten(1))
        return logit.sigmoid() if self.sigmoid else logit


@pytest.mark.parametrize("sigmoid", [True, False])
def test_an_unsure_logit_is_not_taken_for_a_probability(sigmoid, tmp_path):
    tiny.save_safetensors(Unsure(), tmp_path / "net.safetensors")
    options = {"architecture": "test_candidate_mistakes:Unsure", "architecture_args": {"sigmoid": sigmoid}}
    candidate, logits = tiny.load(tmp_path / "net.safetensors", task="binary", **options)
    assert candidate.info.output == f"{'probabilities' if sigmoid else 'logits'} (inferred from 6 samples)"
    expected = Unsure()(tiny.pictures().shares()).detach()
    assert ((expected > 0) & (expected < 1)).all()
    torch.testing.assert_close(logits[:, 1:] - logits[:, :1], expected)


def test_a_probability_that_is_stated_as_a_logit(tmp_path):
    tiny.save_safetensors(Unsure(), tmp_path / "net.safetensors")
    options = {"architecture": "test_candidate_mistakes:Unsure", "task": "binary", "output": "logits"}
    tiny.load(tmp_path / "net.safetensors", **options)
    with pytest.raises(CandidateError, match=r"says logits, but .* stay there on far brighter inputs"):
        tiny.load(tmp_path / "net.safetensors", architecture_args={"sigmoid": True}, **options)


class Inward(tiny.TinyNet):
    """Adds to its scores how much they depend on the image."""

    enabled = False

    def forward(self, image):
        with torch.enable_grad() if self.enabled else nullcontext():
            image = image.requires_grad_()
            scores = super().forward(image)
            (gradient,) = torch.autograd.grad(scores.sum(), image, retain_graph=True)
        return scores + 0.01 * gradient.mean()


def test_one_that_computes_gradients_is_told_to_enable_them(tmp_path, net, monkeypatch):
    torch.save(net.state_dict(), tmp_path / "net.pt")
    given = {"architecture": "test_candidate_mistakes:Inward", "batch_size": 1}
    with pytest.raises(CandidateError) as caught:
        tiny.load(tmp_path / "net.pt", **given)
    assert str(caught.value) == (
        "the candidate computes gradients in its forward, but it is asked without: wrap that part in "
        "torch.enable_grad() (element 0 of tensors does not require grad and does not have a grad_fn)"
    )
    monkeypatch.setattr(Inward, "enabled", True)
    tiny.load(tmp_path / "net.pt", **given)


# --- gradients, devices ---------------------------------------------------------------------------------------------


def test_scores_without_a_gradient(tmp_path, net, monkeypatch):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    whole = tiny.TinyNet.forward
    monkeypatch.setattr(tiny.TinyNet, "forward", lambda self, image: whole(self, image).detach())
    candidate, _ = tiny.load(tmp_path / "net.safetensors")
    images, labels = tiny.pictures().shares(), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(AccessError, match="do not depend differentiably on its input: it has no gradient"):
        candidate.gradient(images, labels, labels, lambda logits, *_: logits[:, 0])

    def unused(self, image):
        return whole(self, image.detach()) + torch.zeros(1, requires_grad=True)

    monkeypatch.setattr(tiny.TinyNet, "forward", unused)
    match = (
        r"like quantised networks .* in numpy, behind detach\(\), inside torch\.no_grad\(\), or by argmax or a "
        r"comparison; .* only asks \(square,"
    )
    with pytest.raises(AccessError, match=match):
        candidate.gradient(images, labels, labels, lambda logits, *_: logits[:, 0])

    def in_parts(self, image):
        return torch.utils.checkpoint.checkpoint(partial(whole, self), image, use_reentrant=True)

    monkeypatch.setattr(tiny.TinyNet, "forward", in_parts)
    match = (
        r"gradient cannot be computed: its gradient checkpointing gives none of one input alone; set "
        r"use_reentrant=False \(torch\.utils\.checkpoint\), or switch gradient checkpointing off$"
    )
    with pytest.raises(AccessError, match=match):
        candidate.gradient(images, labels, labels, lambda logits, *_: logits[:, 0])

    def broken(self, image):
        return whole(self, image) + torch.from_numpy(image.numpy()).sum()

    monkeypatch.setattr(tiny.TinyNet, "forward", broken)
    with pytest.raises(AccessError, match=r"gradient cannot be computed: Can't call numpy\(\) on Tensor") as caught:
        candidate.gradient(images, labels, labels, lambda logits, *_: logits[:, 0])
    assert "Use tensor.detach()" not in str(caught.value)
    assert str(caught.value).endswith("(square, nes, label_only), or write that step in torch")


@pytest.mark.parametrize("name", ["cuda", "cuda:7"])
def test_a_device_that_is_not_there(name, tmp_path, net, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    with pytest.raises(CandidateError, match=rf"model\.device is {name}, but this machine has 0 usable GPUs; set auto"):
        tiny.load(tmp_path / "net.safetensors", device=name)
    assert tiny.load(tmp_path / "net.safetensors", device="auto")[0].device == tiny.CPU


def test_images_that_are_constant_are_no_trouble(tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    tiny.load(tmp_path / "net.safetensors", tiny.Pictures([np.zeros((1, 6, 5), np.uint8)]))
