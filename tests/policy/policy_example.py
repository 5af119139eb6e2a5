"""A valid policy that says nearly everything that can be said."""

from __future__ import annotations

from typing import Any

import yaml

EXAMPLE = """
robustcheck: 1
name: Chest X-ray pneumonia, pre-deployment gate
model:
  path: candidate.onnx
  task: multiclass
  output: auto
  labels: [normal, pneumonia]
  positive: pneumonia
  operating_point: 0.5
  preprocess: {layout: NCHW, channels: 3, resize: [224, 224], range: [0, 1], mean: [0.5], std: [0.25]}
  device: auto
data:
  source: samples.npz
  split: test
  bits: 8
  samples: 500
seed: 7
gates:
  - id: clean
    require: {accuracy: 0.80, sensitivity: 0.90}
  - id: fgsm
    attack: fgsm
    epsilon: 2/255
    require: {accuracy: 0.70}
  - id: pgd
    attack: {name: pgd, steps: 40, restarts: 2}
    epsilon: [1/255, 2/255, 4/255]
    require: {accuracy: [0.75, 0.70, 0.60], attack_success: "<= 0.5"}
  - id: one
    attack: pgd
    epsilon: [0.01]
    require: {specificity: [0.5]}
decision: {rule: estimate}
evidence: isolated
"""


def document() -> Any:
    """The example as plain data."""
    return yaml.safe_load(EXAMPLE)
