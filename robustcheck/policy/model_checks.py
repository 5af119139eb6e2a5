"""Mistakes that no single field shows in a model's section of a policy: the candidate's, or a surrogate's."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from robustcheck.policy.fields import is_number
from robustcheck.policy.model_spec import FORMATS, STATE_DICTS, WHOLE_MODELS, PreprocessSpec, whole_model
from robustcheck.policy.sections import Faults, section, stands
from robustcheck.policy.tree import KeyPath
from robustcheck.words import did_you_mean, plural, shown

CALLABLE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")

_PRETRAINED = ("model*.safetensors", "pytorch_model*.bin")  # of several parts, if they are large
_MOST_BESIDE = 2000  # files of a folder that are searched for what was meant
_PICKLES = (".pkl", ".pickle", ".joblib")  # of whole objects


def artefact(model: dict[str, Any], at: KeyPath, folder: Path, spec: type[BaseModel], *, built: bool = False) -> Faults:
    """Whether a model's file is there, of a format that is read, and goes with the keys beside it.

    Args:
        model: the section.
        at: where it stands.
        folder: the policy's.
        spec: what may stand in it.
        built: an architecture is known from elsewhere.
    """
    path = model.get("path")
    yield from reference(model.get("architecture"), (*at, "architecture"))
    if not isinstance(path, str) or not path:
        return
    suffix = Path(path).suffix.lower()
    if _is_pretrained(folder / path):
        yield (
            (*at, "path"),
            f"found {shown(path)}, which is a folder written by transformers' save_pretrained; save the state dict of "
            "what from_pretrained makes from it, and name that (docs/policy.md, 'Networks of other packages')",
        )
    elif suffix not in FORMATS:
        pickled = "; for a pickle, save the state_dict() of the network in it (fastai: learn.model.state_dict())"
        yield (
            (*at, "path"),
            f"found {shown(path)}; a candidate is .onnx (which Keras and others export), .pt2 (torch.export), "
            f".ts (TorchScript), .safetensors or .pt (state dict)"
            f"{pickled if suffix in _PICKLES else did_you_mean(suffix, FORMATS)}",
        )
    elif reason := not_there(path, folder, FORMATS, file=True):
        yield (*at, "path"), reason
    elif suffix in STATE_DICTS and (meant := whole_model(_names_in(folder / path))):
        kind, ending = meant
        yield (*at, "path"), f"found {shown(path)}, which is {kind}, not a state dict; rename it to end in {ending}"
        return
    whole = suffix != ".safetensors" and model.get("trust") == "pickle"
    yield from _architecture(model, at, suffix, built=built or whole or stands("architecture", model, spec))


def _architecture(model: dict[str, Any], at: KeyPath, suffix: str, *, built: bool) -> Faults:
    """Whether the file and the network's source fit each other."""
    if suffix in STATE_DICTS and not built:
        whole = f"; or, if it is a whole network from torch.save that you trust, {_named(at)}.trust: pickle"
        yield (
            (*at, "path"),
            f"a state dict ({suffix}) needs {_named(at)}.architecture, the 'module:callable' that builds its network"
            f"{whole if suffix != '.safetensors' else ''}",
        )
    for key in ("architecture", "architecture_args"):
        if suffix in WHOLE_MODELS and key in model:
            yield (*at, key), f"a {suffix} file holds its own architecture; leave this out"
    file = f"a {suffix} file" if suffix else "a path without an ending"
    if "weights" in model and (suffix in WHOLE_MODELS or suffix == ".safetensors"):
        yield (*at, "weights"), f"found it beside {file}; it is about checkpoints, which torch.save writes"
    if suffix != ".onnx" and "operators" in model:
        yield (*at, "operators"), f"found it beside {file}; it is about .onnx files"


def _is_pretrained(path: Path) -> bool:
    """Whether it is a folder with the configuration that a network is built with, and its weights."""
    try:
        written = (path / "config.json").is_file()
        return written and any(any(path.glob(weights)) for weights in _PRETRAINED)
    except (OSError, ValueError):
        return False


def _names_in(path: Path) -> list[str]:
    """The names in an archive; none if it is no archive, or cannot be read: loading says what is wrong with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def reference(architecture: Any, at: KeyPath) -> Faults:
    """Whether an architecture is named as Python finds it."""
    if isinstance(architecture, str) and not CALLABLE.fullmatch(architecture):
        yield at, f"found {shown(architecture)}; write 'module:callable', such as torchvision.models:resnet18"


def _named(at: KeyPath) -> str:
    return "model" if at == ("model",) else str(next(part for part in reversed(at) if isinstance(part, str)))


def scores(model: dict[str, Any], at: KeyPath, candidate: dict[str, Any]) -> Faults:
    """Whether a model's `scores` are as many as its task and the candidate's labels take, each once."""
    places, labels = model.get("scores"), candidate.get("labels")
    if not isinstance(places, list) or not places or not all(map(is_number, places)):
        return
    binary = model.get("task", candidate.get("task")) == "binary"
    wanted = 1 if binary else len(labels) if isinstance(labels, list) and labels else len(places)
    if len(set(places)) < len(places):
        yield (*at, "scores"), "names a place twice; each label has a score of its own"
    elif len(places) != wanted:
        what = "a binary task, which has one score" if binary else f"{wanted} {'label' if wanted == 1 else 'labels'}"
        yield (*at, "scores"), f"found a list of {len(places)} for {what}"


def preprocess(model: dict[str, Any], at: KeyPath) -> Faults:
    """Whether the steps of a model's preprocessing fit one another."""
    steps, at = section(model, "preprocess"), (*at, "preprocess")
    yield from _channels(steps, at)
    yield from _sizes(steps, at)
    for key in ("window", "range"):
        limits = steps.get(key)
        if isinstance(limits, list) and len(limits) == 2 and all(map(is_number, limits)) and limits[0] >= limits[1]:
            yield (
                (*at, key),
                f"found [{shown(limits[0])}, {shown(limits[1])}]; the first number has to be less than the second",
            )


def _channels(steps: dict[str, Any], at: KeyPath) -> Faults:
    channels = steps.get("channels")
    for key in ("mean", "std"):
        values = steps.get(key)
        count = len(values) if isinstance(values, list) else 1
        if is_number(channels) and channels in (1, 3) and count in (2, 3) and count != channels:
            what = f"found {count} numbers for {plural(int(channels), 'channel')}"
            yield (*at, key), f"{what}; give one, or one per channel"
    if channels == 1 and steps.get("order") == "BGR":
        yield (*at, "order"), "found BGR, which needs three channels, but channels is 1"


def _sizes(steps: dict[str, Any], at: KeyPath) -> Faults:
    resize, crop = steps.get("resize"), steps.get("crop")
    if not stands("resize", steps, PreprocessSpec):
        for key in ("interpolation", "antialias"):
            if key in steps:
                yield (*at, key), "is about resize, which is missing; set resize, or leave it out"
    elif steps.get("interpolation") == "nearest" and steps.get("antialias") is True:
        yield (*at, "antialias"), "found true, but interpolation: nearest has no antialiasing; leave it out"
    sides = resize if isinstance(resize, list) and len(resize) == 2 else [resize]
    if not isinstance(crop, list) or len(crop) != 2:
        return
    if not all(is_number(side) and side > 0 for side in [*crop, *sides]):
        return
    wanted = crop if len(sides) == 2 else [min(crop)]  # from one number, the longer side is not known here
    if any(want > side for want, side in zip(wanted, sides, strict=True)):
        size = f"[{sides[0]}, {sides[1]}]" if len(sides) == 2 else f"{sides[0]}, the shorter side"
        yield (*at, "crop"), f"found [{crop[0]}, {crop[1]}], but resize is {size}; nothing is padded: crop less"


def not_there(name: str, folder: Path, endings: Collection[str], *, file: bool = False) -> str | None:
    """Why what a policy names cannot be used; None if it is there. Names with these endings may have been meant."""
    path = folder / name
    what = "file" if file else "folder" if endings == {""} else "file or folder"
    try:
        if path.stat() and ((file and not path.is_file()) or (endings == {""} and not path.is_dir())):
            return f"found {shown(name)}, which is {'a folder' if path.is_dir() else 'not a folder'}"
    except (FileNotFoundError, NotADirectoryError, ValueError):
        full = os.path.normpath(path)
        looked = f" (looked for {full})" if len(full) < 300 else ""
        return f"there is no {what} {shown(name)}{looked}{_hint(name, path.parent, endings)}"
    except OSError as error:
        return f"{shown(name)} cannot be read: {error.strerror or error}"
    return None


def is_folder(path: Path) -> bool:
    """Whether a folder is there, as far as can be seen: a name may be too long, or lie where nobody may look."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _hint(name: str, folder: Path, endings: Collection[str]) -> str:
    if name[0] in "~$":
        return "; ~ and $NAME are not expanded"
    try:
        beside = [file.name for file in islice(folder.iterdir(), _MOST_BESIDE) if file.suffix.lower() in endings]
    except (OSError, ValueError):
        return ""
    return did_you_mean(name, sorted(Path(name).with_name(other).as_posix() for other in beside))
