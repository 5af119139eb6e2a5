"""Which device a candidate works on."""

from __future__ import annotations

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.memory import is_out_of_memory
from robustcheck.models.network import first_line

NOTE = (
    "on a GPU, gradients of resized images, viewing conditions and some poolings are summed in no fixed order: runs "
    "may differ in their last bits, and so in samples near the border"
)
_NO_CODE = ("no kernel image", "not compatible", "invalid device function")


def chosen(name: str) -> tuple[torch.device, tuple[str, ...]]:
    """Where a candidate works whose policy names a device so, and what the reader of the report should know about it.

    Raises:
        CandidateError: there is no such GPU, or this PyTorch has no code for it.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu"), ()
    index = None if name == "auto" else torch.device(name).index
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (index or 0) >= count:
        raise CandidateError(f"model.device is {name}, but this machine has {count} usable GPUs; set auto or cpu")
    device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
    if (reason := _unusable(device)) is None:
        return device, ()
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    gpu = f"its {torch.cuda.get_device_name(device)} of compute capability {capability} ({reason})"
    if name == "auto":
        return torch.device("cpu"), (f"it runs on the CPU: this machine's PyTorch does not run on {gpu}",)
    raise CandidateError(
        f"model.device is {name}, but this machine's PyTorch does not run on {gpu}; install a PyTorch that does, or "
        "set auto or cpu"
    )


def _unusable(device: torch.device) -> str | None:
    """Why PyTorch has no code for a GPU; None if it has. Each PyTorch has code for some GPUs, and finds others as well.

    Raises:
        CandidateError: something else is wrong, such as another process that has the GPU to itself.
    """
    try:
        torch.zeros(1, device=device).add(1).item()
    except RuntimeError as error:
        if is_out_of_memory(error):
            return None
        if any(sign in str(error).lower() for sign in _NO_CODE):
            return first_line(error)
        raise CandidateError(f"{torch.cuda.get_device_name(device)} computes nothing: {first_line(error)}") from error
    return None
