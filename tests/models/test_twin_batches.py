"""Files of a fixed batch: their twin is freed of it where it can be, and compared at another size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, drawn, gradient_of, model_of
from onnx import helper


def test_what_is_of_the_size_of_a_fixed_batch_shows_at_another(tmp_path):
    """States that were expanded to four images; all samples come in fours."""
    pixels = tiny.HEIGHT * tiny.WIDTH
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Add", ["flat", "states"], ["sums"]),
        helper.make_node("MatMul", ["sums", "w"], ["scores"]),
    ]
    held = [("states", np.repeat(drawn(1, pixels), 4, axis=0)), ("w", drawn(pixels, 2))]
    onnx.save(model_of(nodes, inputs=(4, 1, tiny.HEIGHT, tiny.WIDTH), held=held), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", tiny.pictures(8))
    wanted = torch.from_numpy(held[1][1])[:, 0].reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1)
    torch.testing.assert_close(gradient_of(candidate), wanted)
    assert any("it takes batches of 4, as the graph does" in note for note in candidate.info.notes)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_class_token_of_a_fixed_batch_goes_to_each_image(batch, axis, tmp_path):
    pixels = tiny.HEIGHT * tiny.WIDTH
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Concat", ["tokens", "flat"], ["longer"], axis=axis),
        helper.make_node("MatMul", ["longer", "w"], ["scores"]),
    ]
    held = [("tokens", np.repeat(drawn(1, 3), batch, axis=0)), ("w", drawn(pixels + 3, 2))]
    onnx.save(model_of(nodes, inputs=(batch, 1, tiny.HEIGHT, tiny.WIDTH), held=held), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", tiny.pictures(8))
    wanted = torch.from_numpy(held[1][1])[3:, 0].reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1)
    torch.testing.assert_close(gradient_of(candidate), wanted)
    assert candidate.network.module is not None  # of any batch


@pytest.mark.parametrize("batch", [1, 4])
def test_rows_of_all_images_are_freed_of_a_fixed_batch(batch, tmp_path):
    """As ONNX Runtime reshapes what goes into a Gemm, and PyTorch's exporters what comes of it."""
    nodes = [
        helper.make_node("Reshape", ["image", "rows"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["each"]),
        helper.make_node("Reshape", ["each", "whole"], ["images"]),
        helper.make_node("MatMul", ["images", "v"], ["scores"]),
    ]
    sizes = {"rows": [batch * tiny.HEIGHT, tiny.WIDTH], "whole": [batch, 3 * tiny.HEIGHT]}
    held = [
        ("w", drawn(tiny.WIDTH, 3)),
        ("v", drawn(3 * tiny.HEIGHT, 2)),
        *((k, np.array(v)) for k, v in sizes.items()),
    ]
    onnx.save(model_of(nodes, inputs=(batch, 1, tiny.HEIGHT, tiny.WIDTH), held=held), tmp_path / "net.onnx")
    candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert candidate.network.module is not None  # of any batch
    torch.testing.assert_close(candidate.search_logits(IMAGES.shares()), logits, rtol=1e-4, atol=1e-5)
