"""Whether networks that people export can be attacked as ONNX: `python -m benchmarks.onnx_zoo`.

Architectures of torchvision and MONAI, and of timm if asked, by both of torch's exporters, with a fixed and a dynamic
batch. Each file is loaded as by a policy with `precision: full`: checked, run by ONNX Runtime, converted, its twin
compared in scores and gradients. Then PGD follows the twin, and the same stored images are shown to both, which have to
read each of them alike. A line an export; the last line counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from benchmarks.arguments import add_machine, positive
from benchmarks.images import Split

TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
mnasnet1_0 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet34
resnet50 resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 swin_t swin_v2_t
vgg11 vgg11_bn vit_b_16 wide_resnet50_2
""".split()  # noqa: SIM905 (a list would be a page)
MONAI = ("densenet", "se-resnet", "unet", "vit", "resnet")
TIMM = """
bat_resnext26ts botnet26t_256 cait_xxs24_224 coat_tiny coatnet_nano_rw_224 convit_tiny convmixer_768_32 convnextv2_atto
crossvit_tiny_240 csatv2 cspresnet50 cs3darknet_s davit_tiny deit_tiny_patch16_224 dla34 dpn48b eca_resnet33ts
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224
fastvit_t8 fbnetc_100 focalnet_tiny_srf gcresnet33ts gcvit_xxtiny gernet_s ghostnet_100 ghostnetv2_100 gmixer_12_224
gmlp_ti16_224 hardcorenas_a hgnet_tiny hiera_tiny_224 hrnet_w18_small inception_next_tiny lambda_resnet26t lcnet_050
legacy_seresnet18 levit_128s mambaout_femto maxvit_rmlp_nano_rw_256 mixer_s32_224 mixnet_s mobilenetv4_conv_small
mobileone_s0 mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small nf_resnet26 pit_ti_224 poolformer_s12
pvt_v2_b0 rdnet_tiny regnetz_005 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_26w_4s resmlp_12_224 resnest14d
resnetv2_50 rexnet_100 sebotnet33ts_256 selecsls42 semnasnet_075 sequencer2d_s seresnext26d_32x4d shvit_s1 skresnet18
spnasnet_100 starnet_s1 swiftformer_xs swinv2_cr_tiny_224 tf_efficientnet_lite0 tf_mobilenetv3_small_minimal_100
tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m twins_pcpvt_small visformer_tiny vit_relpos_small_patch16_224
vit_small_patch16_rope_224 vit_tiny_patch16_224 vitamin_small_224 volo_d1_224 vovnet39a xception41 xcit_nano_12_p16_224
""".split()  # noqa: SIM905
_SIDES = {
    "alexnet": 224,
    "vgg11": 224,
    "vgg11_bn": 224,
    "inception_v3": 96,
    "maxvit_t": 224,
    "vit_b_16": 224,
    "swin_t": 64,
    "swin_v2_t": 64,
}
_SIDE = 64
_TIMM_SIDE = 96
_STEPS, _LEVELS = 10, 2
_AGREEING = 0.95  # the share of what is exported that has to have a twin that agrees


class FirstOf(nn.Module):
    """A network whose first answer, averaged over any pixels, is the scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, 2)."""
        answer = self.network(images)
        scores: Tensor = answer[0] if isinstance(answer, tuple) else answer
        return scores.mean(dim=(2, 3)) if scores.ndim == 4 else scores


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(name, weights=None, num_classes=2, **extra)
    if name in ("googlenet", "inception_v3"):
        for part, nothing in {"aux_logits": False, "AuxLogits": None, "aux1": None, "aux2": None}.items():
            setattr(network, part, nothing)
    return network


def _monai(name: str, side: int) -> nn.Module:
    from monai.networks import nets

    make: dict[str, Callable[[], nn.Module]] = {
        "densenet": lambda: nets.DenseNet121(spatial_dims=2, in_channels=3, out_channels=2),
        "se-resnet": lambda: nets.SEResNet50(spatial_dims=2, in_channels=3, num_classes=2),
        "unet": lambda: nets.UNet(2, 3, 2, channels=(8, 16, 32), strides=(2, 2), num_res_units=1),
        "vit": lambda: nets.ViT(3, side, 16, hidden_size=64, mlp_dim=128, num_layers=3, num_heads=4,
                                classification=True, num_classes=2, spatial_dims=2, post_activation=""),
        "resnet": lambda: nets.resnet18(spatial_dims=2, n_input_channels=3, num_classes=2),
    }  # fmt: skip
    return FirstOf(make[name]())


def _timm(name: str) -> tuple[nn.Module, int]:
    """A network, and 96 or, if it takes no other, the side that it is made for."""
    import timm

    network: Any = timm.create_model(name, pretrained=False, num_classes=2)
    own: int = network.default_cfg["input_size"][-1]
    if network.default_cfg.get("fixed_input_size"):
        return network, own
    try:
        with torch.no_grad():
            network.eval()(torch.rand(2, 3, _TIMM_SIDE, _TIMM_SIDE))
    except (AssertionError, RuntimeError):
        return network, own
    return network, _TIMM_SIDE


def networks(only: Sequence[str]) -> Iterator[tuple[str, nn.Module, int]]:
    """Names, networks, and the side of their images."""
    for name in only:
        side = _SIDES.get(name, _SIDE)
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            package, _, inner = name.rpartition(":")
            if package == "timm":
                network, side = _timm(inner)
            else:
                network = _monai(inner, side) if package else _torchvision(name)
        yield name, network, side


def images(archive: Path, side: int, count: int) -> Tensor:
    """X-rays (count, 3, side, side) as stored shares."""
    stored = Split.read(archive, "test").images[:count]
    large = interpolate(stored, (side, side), mode="bilinear", align_corners=False).clamp(0, 1)
    return ((large * 255).round() / 255).expand(-1, 3, -1, -1).contiguous()


def _settle(network: nn.Module, some: Tensor) -> nn.Module:
    """Random weights with sensible statistics, and scores that differ between images."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.cat([some, 1 - some]))
    return network.eval().requires_grad_(False)


def export(network: nn.Module, some: Tensor, path: Path, *, dynamo: bool, batch: int | None) -> None:
    """By torch's new or old exporter; batch: None for a dynamic one."""
    example = some[: batch or 2]
    options: dict[str, Any] = {"input_names": ["image"], "output_names": ["scores"], "dynamo": dynamo}
    if batch is None and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif batch is None:
        options["dynamic_axes"] = {"image": {0: "batch"}, "scores": {0: "batch"}}
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), str(path), external_data=False, **options)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What became of one export."""

    exported: bool
    loaded: bool = False
    agrees: bool = False
    twin: float | None = None  # what PGD leaves of the accuracy, as the twin sees it
    artefact: float | None = None  # and as ONNX Runtime does
    otherwise: int = 0  # attacked images that the two read otherwise than each other
    why: str = ""


class _Samples:
    """Images in memory: as much of `data.Samples` as a candidate asks for."""

    maximum, zero, hounsfield = 255, 0, None

    def __init__(self, shares: Tensor) -> None:
        self._stored = (shares * 255).round().byte().numpy()

    def __len__(self) -> int:
        return len(self._stored)

    def shape_of(self, index: int, /) -> tuple[int, int, int]:
        shape: tuple[int, int, int] = self._stored[index].shape
        return shape

    def image(self, index: int, /) -> np.ndarray:
        image: np.ndarray = self._stored[index]
        return image


def judge(path: Path, some: Tensor) -> Line:
    """Load an export as a policy would, and attack it through its twin."""
    from robustcheck.errors import EvaluationError
    from robustcheck.models import load_candidate
    from robustcheck.policy import ModelSpec

    spec = ModelSpec(
        path=path.name, task="multiclass", labels=("a", "b"), device="cpu", precision="full", output="logits"
    )
    try:
        candidate, logits = load_candidate(spec, folder=path.parent, samples=cast("Any", _Samples(some)))
    except EvaluationError as error:
        return Line(exported=True, why=str(error))
    if candidate.network.no_gradients:
        return Line(exported=True, loaded=True, why=candidate.network.no_gradients)
    labels = logits.argmax(dim=1)
    attacked = some.clone()
    for _ in range(_STEPS):
        gradient = candidate.gradient(attacked, labels, labels, lambda x, y, _: cross_entropy(x, y, reduction="none"))[
            2
        ]
        attacked = (attacked + _LEVELS / 4 / 255 * gradient.sign()).clamp(some - _LEVELS / 255, some + _LEVELS / 255)
        attacked = attacked.clamp(0, 1)
    attacked = (attacked * 255).round() / 255
    twin, artefact = (ask(attacked).argmax(dim=1) for ask in (candidate.search_logits, candidate.logits))
    left = [float((read == labels).float().mean()) for read in (twin, artefact)]
    otherwise = int((twin != artefact).sum())
    why = f"of {len(some)} attacked images the two read {otherwise} otherwise" if otherwise else ""
    return Line(exported=True, loaded=True, agrees=True, twin=left[0], artefact=left[1], otherwise=otherwise, why=why)


def _tried(network: nn.Module, some: Tensor, path: Path, *, dynamo: bool, batch: int | None) -> Line:
    """A line whatever goes wrong; what goes wrong with the export is the exporter's, the rest is ours."""
    try:
        export(network, some, path, dynamo=dynamo, batch=batch)
    except Exception as error:  # noqa: BLE001 (what an exporter cannot do is a line of the table)
        return Line(exported=False, why=_why(error))
    try:
        return judge(path, some)
    except Exception as error:  # noqa: BLE001 (and so is what we cannot)
        return Line(exported=True, why=_why(error))


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:80]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 unless it is as it should be."""
    asked, names = _parse(arguments)
    torch.set_num_threads(asked.threads)
    lines: dict[str, list[Line]] = {exporter: [] for exporter in asked.exporters}
    print(f"{'architecture':34} {'exporter':8} {'batch':8} exported loaded agrees  twin  ONNX Runtime  seconds")
    for name, network, side in networks(names):
        some = images(asked.archive, side, asked.images)
        network = _settle(network, some)
        for exporter in asked.exporters:
            for batch in asked.batches:
                began = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "network.onnx"
                    line = _tried(network, some, path, dynamo=exporter == "new", batch=1 if batch == "fixed" else None)
                lines[exporter].append(line)
                print(_row(name, exporter, batch, line, time.perf_counter() - began), flush=True)
    said, held = summary(lines)
    print(said)
    return 0 if held else 1


def summary(lines: dict[str, list[Line]]) -> tuple[str, bool]:
    """The last line, and whether all is as it should be, from the lines of each exporter.

    Each exporter has exported something, nearly all of that has a twin that agrees, and none of these reads an attacked
    image otherwise than ONNX Runtime.
    """
    exported = {exporter: [line for line in some if line.exported] for exporter, some in lines.items()}
    made = [line for some in exported.values() for line in some]
    agreeing = [line for line in made if line.agrees]
    apart = sum(line.otherwise > 0 for line in agreeing)
    said = (
        f"{sum(map(len, lines.values()))} exports tried, {len(made)} made; of these "
        f"{sum(line.loaded for line in made)} loaded, {len(agreeing)} with a twin that agrees, "
        f"of which {apart} read attacked images otherwise"
    )
    said += "".join(f"; the {exporter} exporter made none" for exporter, some in exported.items() if not some)
    return said, all(exported.values()) and not apart and len(agreeing) >= _AGREEING * len(made)


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """What is asked, and the names of the architectures that are."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx_zoo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        nargs="*",
        default=[],
        metavar="NAME",
        help="these architectures (resnet18, monai:unet, timm:dla34, …)",
    )
    parser.add_argument("--timm", action="store_true", help="families of timm as well, which takes an hour or more")
    parser.add_argument(
        "--exporters", nargs="+", default=["new", "old"], choices=["new", "old"], help="torch's (default: both)"
    )
    parser.add_argument(
        "--batches", nargs="+", default=["dynamic", "fixed"], choices=["dynamic", "fixed"], help="(default: both)"
    )
    parser.add_argument(
        "--images", type=positive, default=6, metavar="N", help="how many X-rays are attacked (default: %(default)s)"
    )
    add_machine(parser)
    asked = parser.parse_args(arguments)
    usual, more = [*TORCHVISION, *(f"monai:{name}" for name in MONAI)], [f"timm:{name}" for name in TIMM]
    if unknown := set(asked.only).difference(usual, more):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    names = asked.only or usual + more * asked.timm
    needed = {name.partition(":")[0] for name in names if ":" in name}
    needed |= {"onnxscript"} if "new" in asked.exporters else set()
    if missing := sorted(package for package in needed if find_spec(package) is None):
        parser.error(f"{', '.join(missing)} is not installed: pip install -e '.[benchmarks]'")
    return asked, names


def _row(name: str, exporter: str, batch: str, line: Line, seconds: float) -> str:
    said = ["yes" if held else "no" for held in (line.exported, line.loaded, line.agrees)]
    left = ["" if value is None else f"{value:.2f}" for value in (line.twin, line.artefact)]
    why = " ".join(line.why.split())[:160]
    return (
        f"{name:34} {exporter:8} {batch:8} {said[0]:8} {said[1]:6} {said[2]:6} "
        f"{left[0]:>5} {left[1]:>13} {seconds:8.1f}"
        f"{f'  {why}' if why else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
