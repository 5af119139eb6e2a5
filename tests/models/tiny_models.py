"""Tiny networks, what they answer in closed form, and every format that they can be saved in."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

from robustcheck.models import Candidate, load_candidate
from robustcheck.models.head import Head
from robustcheck.models.network import Forward, Network
from robustcheck.policy import ModelSpec

CPU = torch.device("cpu")
HEIGHT, WIDTH = 6, 5
HEAD = Head(labels=("a", "b"), binary=False, outputs_probabilities=False, positive=None, operating_point=None, found="")
"""Of a network that gives logits of two labels."""


class TinyNet(nn.Module):
    """Convolution, batch normalisation, dropout, linear: what a mode of training would change."""

    def __init__(self, channels: int = 1, labels: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(3, labels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.bn(self.conv(image)).relu().mean((2, 3))))


def tiny_net(channels: int = 1, labels: int = 2, *, seed: int = 1) -> TinyNet:
    """In evaluation mode, its batch normalisation off its defaults."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = TinyNet(channels, labels)
        for tensor in (net.bn.running_mean, net.bn.weight.data, net.bn.bias.data):
            tensor.uniform_(0.5, 1.5)
    return net.eval()


class Pictures:
    """Stored images: as much of `robustcheck.data.Samples` as a candidate sees."""

    def __init__(self, images: Sequence[np.ndarray], maximum: int = 255, hounsfield: int | None = None) -> None:
        self._images, self.maximum, self.zero, self.hounsfield = list(images), maximum, 0, hounsfield

    def __len__(self) -> int:
        return len(self._images)

    def shape_of(self, index: int) -> tuple[int, int, int]:
        return self._images[index].shape

    def image(self, index: int) -> np.ndarray:
        return self._images[index].copy()

    def shares(self) -> torch.Tensor:
        """All of them, as shares of the full range."""
        return torch.from_numpy(np.stack(self._images)).float() / self.maximum


def pictures(number: int = 6, *, channels: int = 1, height: int = HEIGHT, width: int = WIDTH) -> Pictures:
    random = np.random.default_rng(3)
    return Pictures(list(random.integers(0, 256, (number, channels, height, width), dtype=np.uint8)))


def spec(path: str, **options: Any) -> ModelSpec:
    given = {"task": "multiclass", "labels": ("healthy", "ill"), "device": "cpu", **options}
    if path.endswith((".safetensors", ".pt", ".pth", ".ckpt", ".bin")):
        given.setdefault("architecture", "tiny_models:TinyNet")
    return ModelSpec(path=path, **given)


def load(path: Path, samples: Pictures | None = None, **options: Any) -> tuple[Candidate, torch.Tensor]:
    options = {"precision": "full", **options}  # other forms of a network are what test_fast_form is about
    return load_candidate(spec(path.name, **options), folder=path.parent, samples=samples or pictures())


def network(forward: Forward, **options: Any) -> Network:
    return Network(forward=forward, device=CPU, **options)


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


# --- saving ----------------------------------------------------------------------------------------------------


def quietly(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Without the notices of exporters."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def image_for(net: nn.Module, number: int = 2) -> torch.Tensor:
    first = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
    return torch.rand(number, first.in_channels, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)).to(
        first.weight.dtype
    )


def save_safetensors(net: nn.Module, path: Path) -> None:
    save_file(net.state_dict(), path)


def save_script(net: nn.Module, path: Path) -> None:
    quietly(lambda: torch.jit.save(torch.jit.script(net), str(path)))


def save_frozen(net: nn.Module, path: Path) -> None:
    quietly(lambda: torch.jit.save(torch.jit.freeze(torch.jit.script(net)), str(path)))


def save_trace(net: nn.Module, path: Path) -> None:
    quietly(lambda: torch.jit.save(torch.jit.trace(net, image_for(net), check_trace=False), str(path)))


def save_exported(net: nn.Module, path: Path, *, batch: Any = "any", number: int = 2) -> None:
    """`batch`: "any", a `torch.export.Dim`, or None for the batch that it is traced with."""
    shapes = None if batch is None else ({0: torch.export.Dim("batch") if batch == "any" else batch},)
    program = quietly(torch.export.export, net, (image_for(net, number),), dynamic_shapes=shapes)
    quietly(torch.export.save, program, str(path))


def save_onnx(net: nn.Module, path: Path, *, batch: int | None = None) -> None:
    """By the exporter that torch has by default."""
    shapes = ({0: torch.export.Dim("batch")},) if batch is None else None
    arguments = (image_for(net, batch or 2),)
    quietly(torch.onnx.export, net, arguments, str(path), dynamo=True, dynamic_shapes=shapes, external_data=False)


def save_onnx_external(net: nn.Module, path: Path) -> None:
    """With every weight in a file beside it."""
    save_onnx_old(net, path)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def save_onnx_old(net: nn.Module, path: Path, *, batch: int | None = None, **options: Any) -> None:
    """By the exporter that torch had before."""
    axes = {"image": {0: "batch"}, "scores": {0: "batch"}} if batch is None else None
    names = {"input_names": ["image"], "output_names": ["scores"], "dynamic_axes": axes}
    quietly(torch.onnx.export, net, (image_for(net, batch or 2),), str(path), dynamo=False, **names, **options)


SAVERS = {
    "net.safetensors": save_safetensors,
    "net.ts": save_script,
    "net.pt2": save_exported,
    "net.onnx": save_onnx_old,
}
"""One of each format."""


def save_linear_onnx(
    path: Path,
    weights: np.ndarray,
    *,
    kind: int = TensorProto.FLOAT,
    inputs: Sequence[str] = ("image",),
    outputs: Sequence[str] = ("scores",),
    shape: Sequence[int | str] = ("n", 1, HEIGHT, WIDTH),
) -> onnx.ModelProto:
    """scores = flatten(image) @ weights, in the image's own type; uint8 images are cast to float."""
    number = kind if kind != TensorProto.UINT8 else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", [inputs[0]], ["cast"], to=number),
        helper.make_node("Flatten", ["cast"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], [outputs[0]]),
        *(helper.make_node("Identity", [outputs[0]], [extra]) for extra in outputs[1:]),
    ]
    held = onnx.numpy_helper.from_array(weights.astype(helper.tensor_dtype_to_np_dtype(number)), "w")
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info(name, number, [shape[0], weights.shape[1]]) for name in outputs],
        [held],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return model


def rezip(source: Path, target: Path, change: dict[str, bytes | None], extra: Sequence[tuple[str, bytes]] = ()) -> None:
    """Copy an archive with some members' contents replaced (by the end of their names; None: left out)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are there twice
        for name in old.namelist():
            content = next((held for end, held in change.items() if name.endswith(end)), old.read(name))
            if content is not None:
                new.writestr(name, content)
        top = old.namelist()[0].partition("/")[0]
        for name, content in extra:
            new.writestr(f"{top}/{name}", content)


def member(path: Path, end: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(end))
        return archive.read(name)


def code_of(scripted: Path) -> str:
    """The member with the tiny network's code; torch numbers it where the process had a network of that name before."""
    with zipfile.ZipFile(scripted) as archive:
        (name,) = (name for name in archive.namelist() if "__torch__/tiny_models" in name and name.endswith(".py"))
    return name.partition("/")[2]


def _old_onnx_as_it_is(net, path):
    mode = torch.onnx.TrainingMode.PRESERVE
    save_onnx_old(net, path, training=mode, do_constant_folding=False)


FORMATS = {  # that keep the mode a network is in
    "net.ts": save_script,
    "trace.ts": save_trace,
    "net.pt2": save_exported,
    "old.onnx": _old_onnx_as_it_is,
}
