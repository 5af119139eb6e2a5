"""Processes that begin with the libraries loaded, and otherwise as new ones do."""

from __future__ import annotations

import sys
from multiprocessing import get_context
from multiprocessing.context import BaseContext

FORKS = sys.platform == "linux"
# Of others alone: what is ours is loaded where and when a process does it.
LIBRARIES = [
    "filelock",
    "jinja2",
    "onnxruntime",
    "PIL.PngImagePlugin",
    "pydantic",
    "pydicom",
    "rich.console",
    "safetensors.torch",
    "scipy.optimize",
    "scipy.stats",
    "torch.utils.flop_counter",
    "torchvision",
]


def new_processes() -> BaseContext:
    """Forks of one process that has loaded the libraries and done nothing since, where that is known to be safe."""
    if not FORKS:
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context
