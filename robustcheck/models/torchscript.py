"""TorchScript (.ts)."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.artefact import check_archive
from robustcheck.models.network import Network, first_line, freeze

# TorchScript is a language of tensors, but these operators of it reach files.
_REACHES_FILES = re.compile(r"\b(?:torch|aten)\.(save|load|from_file)\s*\(")
_MAX_SOURCE_BYTES = 64 * 1024 * 1024


def load_torchscript(path: Path, device: torch.device) -> Network:
    """Load a scripted or traced module.

    Raises:
        CandidateError: the file is not TorchScript, or its code reaches for files.
    """
    names = check_archive(path)
    if not any(name.endswith("/constants.pkl") for name in names):
        hint = "; a torch.export program is named .pt2" if any("archive_format" in name for name in names) else ""
        raise CandidateError(f"{path.name} is not a TorchScript archive (torch.jit.save){hint}")
    _check_code(path, names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own notice that TorchScript is deprecated
            module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise CandidateError(f"{path.name} cannot be loaded as TorchScript: {first_line(error)}") from None
    module.eval()
    freeze(module)
    return Network(forward=module, device=device)


def _check_code(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in names:
            if not name.endswith(".py"):
                continue
            if archive.getinfo(name).file_size > _MAX_SOURCE_BYTES:
                raise CandidateError(f"{path.name} holds {name}, more code than any network needs; it is not loaded")
            if match := _REACHES_FILES.search(archive.read(name).decode("utf-8", "replace")):
                raise CandidateError(
                    f"{path.name} calls torch.{match[1]} in {name}; a candidate does not read or write files"
                )
