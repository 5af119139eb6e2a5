"""What no single field of a policy shows about a model: the candidate's section, or that of a surrogate."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from robustcheck.policy.model_spec import FORMATS, STATE_DICTS, WHOLE_MODELS
from robustcheck.policy.sections import Found, is_number, section, stands
from robustcheck.policy.tree import KeyPath
from robustcheck.words import did_you_mean, plural, shown

CALLABLE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")

_MOST_BESIDE = 2000  # files of a folder that are looked through for what was meant


def artefact(model: dict[str, Any], at: KeyPath, folder: Path, spec: type[BaseModel], *, built: bool = False) -> Found:
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
    if suffix not in FORMATS:
        yield (
            (*at, "path"),
            f"found {shown(path)}; a candidate is .onnx (which Keras and others export), .pt2 (torch.export), "
            f".ts (TorchScript), .safetensors or .pt (state dict){did_you_mean(suffix, FORMATS)}",
        )
    elif reason := not_there(path, folder, FORMATS, file=True):
        yield (*at, "path"), reason
    whole = suffix != ".safetensors" and model.get("trust") == "pickle"
    yield from _architecture(model, at, suffix, built=built or whole or stands("architecture", model, spec))


def _architecture(model: dict[str, Any], at: KeyPath, suffix: str, *, built: bool) -> Found:
    """Whether the file and the network's source fit each other."""
    if suffix in STATE_DICTS and not built:
        yield (
            (*at, "path"),
            f"a state dict ({suffix}) needs {_named(at)}.architecture, the 'module:callable' that builds its network",
        )
    for key in ("architecture", "architecture_args"):
        if suffix in WHOLE_MODELS and key in model:
            yield (*at, key), f"a {suffix} file holds its own architecture; leave this out"
    if suffix != ".onnx" and "operators" in model:
        yield (*at, "operators"), f"found it beside a {suffix} file; it is about .onnx files"


def reference(architecture: Any, at: KeyPath) -> Found:
    """Whether an architecture is named as Python finds it."""
    if isinstance(architecture, str) and not CALLABLE.fullmatch(architecture):
        yield at, f"found {shown(architecture)}; write 'module:callable', such as torchvision.models:resnet18"


def _named(at: KeyPath) -> str:
    return "model" if at == ("model",) else str(next(part for part in reversed(at) if isinstance(part, str)))


def preprocess(model: dict[str, Any], at: KeyPath) -> Found:
    """Whether a model's preprocessing fits itself."""
    steps = section(model, "preprocess")
    channels = steps.get("channels")
    for key in ("mean", "std"):
        values = steps.get(key)
        count = len(values) if isinstance(values, list) else 1
        if is_number(channels) and channels in (1, 3) and count in (2, 3) and count != channels:
            what = f"found {count} numbers for {plural(int(channels), 'channel')}"
            yield (*at, "preprocess", key), f"{what}; give one, or one a channel"
    for key in ("window", "range"):
        limits = steps.get(key)
        if isinstance(limits, list) and len(limits) == 2 and all(map(is_number, limits)) and limits[0] >= limits[1]:
            yield (
                (*at, "preprocess", key),
                f"found [{shown(limits[0])}, {shown(limits[1])}]; the first number has to be less than the second",
            )


def not_there(name: str, folder: Path, endings: Collection[str], *, file: bool = False) -> str | None:
    """Why what a policy names cannot be used; None if it is there. Names with these endings may have been meant."""
    path = folder / name
    what = "file" if file else "folder" if endings == {""} else "file or folder"
    try:
        if path.stat() and ((file and not path.is_file()) or (endings == {""} and not path.is_dir())):
            return f"found {shown(name)}, which is {'a folder' if path.is_dir() else 'no folder'}"
    except (FileNotFoundError, NotADirectoryError, ValueError):
        full = os.path.normpath(path)
        looked = f" (looked for {full})" if len(full) < 300 else ""
        return f"there is no {what} {shown(name)}{looked}{_hint(name, path.parent, endings)}"
    except OSError as error:
        return f"{shown(name)} cannot be read: {error.strerror or error}"
    return None


def _hint(name: str, folder: Path, endings: Collection[str]) -> str:
    if name[0] in "~$":
        return "; neither ~ nor $NAME is filled in"
    try:
        beside = [file.name for file in islice(folder.iterdir(), _MOST_BESIDE) if file.suffix.lower() in endings]
    except (OSError, ValueError):
        return ""
    return did_you_mean(name, sorted(Path(name).with_name(other).as_posix() for other in beside))
