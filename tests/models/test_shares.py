"""Grey levels as shares of the full range, on any device."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models as tiny
import torch

from robustcheck.models.batches import as_shares
from robustcheck.models.grey_levels import shares_of

BITS = [8, 10, 12, 16]


class Reciprocal(torch.overrides.TorchFunctionMode):
    """Divides by numbers as CUDA's kernels do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.div, torch.Tensor.__truediv__) and isinstance(args[1], (int, float)):
            return args[0] * (1 / torch.tensor(float(args[1])))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bits", BITS)
def test_shares_are_the_nearest_numbers(bits):
    maximum = 2**bits - 1
    levels = torch.arange(maximum + 1, dtype=torch.int32)
    nearest = (levels.double() / maximum).float()
    stored = tiny.Pictures([levels.numpy().astype(np.uint16).reshape(1, 16, -1)], maximum)
    with Reciprocal():
        assert torch.equal(shares_of(levels, maximum), nearest)
        assert torch.equal(shares_of(levels.float(), maximum), nearest)
        assert torch.equal(as_shares(stored, [0], tiny.CPU).flatten(), nearest)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("bits", BITS)
def test_a_gpu_has_the_same_shares_of_all_levels(bits):
    maximum = 2**bits - 1
    levels = torch.arange(maximum + 1, dtype=torch.int32)
    assert torch.equal(shares_of(levels.cuda(), maximum).cpu(), shares_of(levels, maximum))
    assert torch.equal(shares_of(levels.float().cuda(), maximum).cpu(), shares_of(levels, maximum))
