"""ONNX Runtime, which reports nothing: from 1.29 on its wheels tell Microsoft of sessions and models where they may."""

from __future__ import annotations

import os

_TELEMETRY = "ORT_DISABLE_TELEMETRY"
os.environ.setdefault(_TELEMETRY, "1")  # read once, as it is imported: then it makes no identifier and no connection

import onnxruntime  # noqa: E402

if os.environ[_TELEMETRY] == "1":
    onnxruntime.disable_telemetry_events()  # of a program that had imported it before

__all__ = ["onnxruntime"]
