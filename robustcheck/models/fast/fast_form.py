"""The network as searches use it: the same function, faster, and logits where the artefact ends in probabilities.

A copy of the network is traced; its batch norms are folded into the convolutions beside them, its convolutions work
channels-last, and in bfloat16 where the machine multiplies that; its last softmax or sigmoid was left off before
(`endings`). On a GPU convolutions that stay in float32 keep their layout: no other has been measured. Images go in as
the sum of two bfloat16 parts where the first layer is a plain convolution, and in float32 elsewhere; the last layer and
all losses stay in float32. The copy only searches: each verdict is the shipped artefact's, in full precision. A copy
that does not agree with the artefact is not used.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse as with_batch_norms_folded

from robustcheck.models.fast.growing import let_grow
from robustcheck.models.fast.joined import join
from robustcheck.models.fast.multiplications import share_of_convolutions
from robustcheck.models.fast.nodes import traced_copy
from robustcheck.models.fast.packed import can_pack
from robustcheck.models.fast.pre_activation import shift_pre_activations
from robustcheck.models.fast.tidying import tidy
from robustcheck.models.fast.two_parts import InTwoParts
from robustcheck.models.multilabel_head import AnyHead
from robustcheck.models.network import Forward, freeze, rows

_WORK_IN_CONVOLUTIONS = 0.8  # share of the multiplications, from which bfloat16 pays on a CPU
_MANY_WEIGHTS = 2**20  # in convolutions, from which laying them out once pays (ARCHITECTURE.md)
_PROBABILITIES_AGREE = 0.05  # the largest difference
_GRADIENTS_AGREE = 0.8  # cosine, mean over samples; a ResNet-50 has .88, small CNNs .99
_MOST_AGREE = 0.5  # the same, of all samples but one in eight: a mean hides some whose gradient is useless
_LEFT_OUT = 8  # one in so many

_Layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True, kw_only=True)
class Faster:
    """Another form of a network."""

    forward: Forward
    words: str  # what it is
    error: float  # the largest difference of its margins from those of the network


def alike(module: Forward, other: Forward, example: Sequence[torch.Tensor], head: AnyHead, other_head: AnyHead) -> bool:
    """Whether two forms of a network, each read by its head, give the same probabilities on example inputs."""
    try:
        with torch.no_grad():
            ours = [_probabilities(head, module(some.clone())) for some in example]
            theirs = [_probabilities(other_head, other(some.clone())) for some in example]
            apart = [float((one - another).abs().max()) for one, another in zip(ours, theirs, strict=True)]
    except Exception:  # noqa: BLE001 (a form that does not run at all)
        return False
    return all(difference <= _PROBABILITIES_AGREE for difference in apart)  # a NaN is not equal


def margin_error(
    artefact: Forward, twin: Forward, example: Sequence[torch.Tensor], head: AnyHead, *, most: float
) -> float:
    """The largest difference of margins between an artefact and its twin, where margins count up to `most`."""
    with torch.no_grad():
        ours, theirs = (
            torch.cat([_margins(head, ask(some)).clamp(-most, most) for some in example]) for ask in (twin, artefact)
        )
    return float((ours - theirs).abs().nan_to_num(0).max())


def faster(module: nn.Module, example: Sequence[torch.Tensor], head: AnyHead) -> Faster | None:
    """A faster form of a network; None if there is none that runs and agrees.

    Args:
        module: float32, in evaluation mode; it is not changed.
        example: batches of inputs (N, C, H, W) that fit, on its device.
        head: how its raw scores are read.
    """
    try:
        return _faster(module, example, head)
    except Exception:  # noqa: BLE001 (a network's code may rely on a layout or a type: then it is asked as it is)
        return None


def _faster(module: nn.Module, example: Sequence[torch.Tensor], head: AnyHead) -> Faster | None:
    if not any(isinstance(layer, _Layers) and not isinstance(layer, nn.Linear) for layer in module.modules()):
        return None
    device, image = example[0].device, example[0][:1].clone()  # some networks write into what they are given
    traced = traced_copy(module)
    folded = copy.deepcopy(module) if traced is None else _folded(traced, image)
    freeze(folded)
    words = [] if traced is None else ["batch norm folded"]
    if _multiplies_bfloat16(device) and _convolves(folded, image):
        laid_out = copy.deepcopy(folded).to(memory_format=torch.channels_last)
        forward = _channels_last(_in_bfloat16(laid_out, image))
        if (error := _difference(module, forward, example, head)) is not None:
            return Faster(forward=forward, words=", ".join([*words, "channels-last", "bfloat16"]), error=error)
    forward = folded
    if _gains_by_layout(device):
        forward = _channels_last(folded.to(memory_format=torch.channels_last))
        words.append("channels-last")
    error = _difference(module, forward, example, head) if words else None
    return None if error is None else Faster(forward=forward, words=", ".join(words), error=error)


def _folded(traced: fx.GraphModule, image: torch.Tensor) -> fx.GraphModule:
    """The same without the batch norms that can be folded or merged, and, on CPUs, writing less memory."""
    tidy(traced, image)
    folded = with_batch_norms_folded(traced, no_trace=True)
    assert isinstance(folded, fx.GraphModule)
    if image.device.type == "cpu":  # not measured on GPUs
        shift_pre_activations(folded)
        let_grow(folded, image)
    return folded


def _channels_last(forward: Forward) -> Forward:
    return lambda inputs: forward(inputs.contiguous(memory_format=torch.channels_last))


def _gains_by_layout(device: torch.device) -> bool:
    """Whether convolutions in float32 are known to be faster channels last, as they are on CPUs."""
    return device.type == "cpu"


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the machine multiplies bfloat16 itself, not by way of float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _multiplies_tiles(device: torch.device) -> bool:
    """Whether the machine multiplies bfloat16 so fast (Intel's AMX) that convolutions of small maps wait for memory."""
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _convolves(module: nn.Module, image: torch.Tensor) -> bool:
    """Whether bfloat16 pays: on GPUs always; on CPUs convolutions gain, grouped ones and matrix products lose."""
    if image.device.type == "cuda":
        return True
    if any(getattr(layer, "groups", 1) > 1 for layer in module.modules()):
        return False
    return share_of_convolutions(module, image) >= _WORK_IN_CONVOLUTIONS


def _in_bfloat16(module: nn.Module, image: torch.Tensor) -> Forward:
    """Convolutions in bfloat16; on a GPU the linear layers too. The last layer stays in float32.

    So does the first one, unless it is a plain convolution, which is given images in two parts.
    """
    device = image.device.type
    order = _order(module, image)
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, _Layers):
            continue
        if layer is order[0] is not order[-1] and isinstance(layer, nn.Conv2d) and layer.groups == 1:
            _replace(module, name, InTwoParts(layer))
        elif layer in (order[0], order[-1]) or (device == "cpu" and isinstance(layer, nn.Linear)):
            _replace(module, name, _Float32(layer, device))
        else:
            layer.to(torch.bfloat16)
    # Code that was not traced may look at its layers, such as at their weights.
    if device == "cpu" and isinstance(module, fx.GraphModule) and can_pack() and _is_large(module):
        join(module, unfold=_multiplies_tiles(image.device))

    def forward(inputs: torch.Tensor, /) -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False):
            scores: torch.Tensor = module(inputs)
        return scores

    return forward


def _is_large(module: nn.Module) -> bool:
    """Whether the weights of its convolutions are more than stay in a core's cache from one call to the next."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Conv2d)) >= _MANY_WEIGHTS


def _order(module: nn.Module, image: torch.Tensor) -> list[nn.Module]:
    """The layers in the order in which they first run."""
    asked: dict[nn.Module, None] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, _inputs: asked.setdefault(layer))
        for layer in module.modules()
        if isinstance(layer, _Layers)
    ]
    try:
        with torch.no_grad():
            module(image)
    finally:
        for hook in hooks:
            hook.remove()
    return list(asked)


class _Float32(nn.Module):
    """A layer that works in float32 among others that do not."""

    def __init__(self, layer: nn.Module, device: str) -> None:
        super().__init__()
        self.layer, self.device = layer, device

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The layer's answer, in float32."""
        with torch.autocast(self.device, enabled=False):
            answer: torch.Tensor = self.layer(inputs.float())
        return answer


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)


def _difference(module: Forward, other: Forward, example: Sequence[torch.Tensor], head: AnyHead) -> float | None:
    """The largest difference of margins; None if the other form reads images, or its gradients point, elsewhere."""
    scores, gradient = _scores_and_gradients(module, example, head)
    other_scores, other_gradient = _scores_and_gradients(other, example, head)
    apart = (_probabilities(head, scores) - _probabilities(head, other_scores)).abs()
    if not bool(apart.max() <= _PROBABILITIES_AGREE):  # a NaN does not agree
        return None
    moving = gradient.any(dim=1)
    cosine = nn.functional.cosine_similarity(gradient, other_gradient, dim=1)[moving].sort().values
    if len(cosine) and not bool(cosine.mean() >= _GRADIENTS_AGREE and cosine[len(cosine) // _LEFT_OUT] >= _MOST_AGREE):
        return None
    return float((_margins(head, scores) - _margins(head, other_scores)).abs().max())


def _scores_and_gradients(
    forward: Forward, example: Sequence[torch.Tensor], head: AnyHead
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (N, K) and gradients (N, pixels) of all batches."""
    scores, gradients = [], []
    for some in example:
        inputs = some.detach().requires_grad_()
        with torch.enable_grad():
            scores.append(forward(inputs.clone()).float())  # some networks write into what they are given
            gradients.append(torch.autograd.grad(_margins(head, scores[-1]).abs().sum(), inputs)[0].flatten(1))
    return torch.cat(scores).detach(), torch.cat(gradients)


def _probabilities(head: AnyHead, raw: torch.Tensor) -> torch.Tensor:
    return head.probabilities(head.logits(rows(raw, len(raw))))


def _margins(head: AnyHead, raw: torch.Tensor) -> torch.Tensor:
    return head.margins(head.logits(rows(raw, len(raw))))
