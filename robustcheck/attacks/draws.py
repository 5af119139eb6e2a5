"""Random numbers that depend on (seed, gate, sample, restart) and on nothing else.

Batch size, order of the samples, and number of workers or devices change no draw; nor does one draw change another.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, gate: str, sample: str, restart: int) -> np.random.Generator:
    """The generator of one restart of one sample in one gate: counter-based (Philox), the same on every platform."""
    key = hashlib.sha256(f"{seed}\0{gate}\0{sample}\0{restart}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
