"""What an answer was computed with: versions and machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

_PACKAGES = ("torch", "torchvision", "numpy", "onnx", "onnx2fx", "pillow", "pydicom", "scipy", "pytest")
_DECODERS = ("python-gdcm", "gdcm", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pyjpegls")  # of DICOM
_ABSENT = "not installed"


def environment(device: torch.device | None) -> dict[str, str]:
    """Names to versions; `device` is where the candidate ran, None if it was not loaded."""
    facts = {"robustcheck": _version("pytest-robustcheck"), "python": platform.python_version()}
    facts |= {package: _version(package) for package in _PACKAGES}
    facts |= {package: found for package in _DECODERS if (found := _version(package)) != _ABSENT}
    facts["onnxruntime"] = next(
        (found for name in ("onnxruntime-gpu", "onnxruntime") if (found := _version(name)) != _ABSENT),
        _ABSENT,
    )
    facts["platform"] = platform.platform()
    facts["threads"] = str(torch.get_num_threads())
    if device is not None:
        facts["device"] = str(device)
        if device.type == "cuda":
            facts["gpu"] = torch.cuda.get_device_name(device)
            facts["cuda"] = str(torch.version.cuda)
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _ABSENT
