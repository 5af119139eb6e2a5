"""TorchScript (.ts)."""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.artefact import check_archive, checked_copy
from robustcheck.models.network import Network, Takes, dtype_of, first_line, freeze, in_dtype
from robustcheck.models.output_selection import Answering

# TorchScript is a language of tensors, but these operators of it reach files. A function can be renamed
# (`f = torch.save`), so the words are refused wherever they stand.
_REACHES_FILES = re.compile(r"\b(save|from_file|read_file|write_file|load_tensor)\b")
_GETATTR = re.compile(r"\bgetattr\b(?!\([\w.()]+, \"[\w.-]*\"\))")  # torch writes `getattr(self, "0")`, and no other
_MAX_SOURCE_BYTES = 64 * 1024 * 1024


def load_torchscript(path: Path, device: torch.device, output: str | None) -> Network:
    """Load a scripted or traced module, in the mode that it was saved in.

    Args:
        path: the archive.
        device: where it is to work.
        output: which of several has the scores.

    Raises:
        CandidateError: the file is not TorchScript, or its code reaches for files.
    """
    names = check_archive(path)
    if not any(name.endswith("/constants.pkl") for name in names):
        hint = "; a torch.export program is named .pt2" if any("archive_format" in name for name in names) else ""
        raise CandidateError(f"{path.name} is not a whole TorchScript archive (torch.jit.save){hint}")
    copy = checked_copy(path, partial(_look, path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own notice that TorchScript is deprecated
            module = torch.jit.load(copy, map_location=device)
    except Exception as error:  # noqa: BLE001 (torch raises whatever a broken archive makes it raise)
        raise CandidateError(f"{path.name} cannot be loaded as TorchScript: {first_line(error)}") from None
    freeze(module)
    dtype = dtype_of(module)
    return Network(
        forward=in_dtype(Answering(module, output), dtype),
        device=device,
        convolves_as_laid_out=dtype == torch.float32,
        takes=_takes(module),
        in_training=next((name for name, part in module.named_modules() if _trains(part)), None),
    )


def _trains(module: torch.nn.Module) -> bool:
    """Whether it is a layer that training mode changes, and in it. What a function of the network's own drops is its
    design."""
    # A frozen module has no mode left: it was frozen in evaluation mode.
    kind = str(getattr(module, "original_name", ""))
    return getattr(module, "training", False) and ("Dropout" in kind or "BatchNorm" in kind)


def _look(path: Path, name: str, content: bytes) -> bytes:
    if not name.lower().endswith(".py"):
        return content
    if len(content) > _MAX_SOURCE_BYTES:
        raise CandidateError(f"{path.name} holds {name}, more code than any network needs; it is not loaded")
    source = content.decode("utf-8", "replace")
    if match := _REACHES_FILES.search(source):
        raise CandidateError(
            f"{path.name} names {match[0]!r} in {name}, with which TorchScript reaches files; "
            "a candidate does not read or write files"
        )
    if _GETATTR.search(source):
        raise CandidateError(f"{path.name} looks up names by getattr in {name}, which torch.jit.save does not write")
    return content


def _takes(module: torch.jit.ScriptModule) -> Takes | None:
    """The channels of the first layer, if that is a convolution."""
    first = next(iter(module.parameters()), None)
    return (None, first.shape[1], None, None) if first is not None and first.ndim == 4 else None
