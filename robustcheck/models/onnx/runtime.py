"""ONNX Runtime, kept from reporting: from 1.29 on its wheels tell Microsoft about sessions and models if they can."""

from __future__ import annotations

import os

_TELEMETRY = "ORT_DISABLE_TELEMETRY"
os.environ.setdefault(_TELEMETRY, "1")  # read once, as it is imported: then it makes no identifier and no connection

import onnxruntime  # noqa: E402

if os.environ[_TELEMETRY] == "1":
    onnxruntime.disable_telemetry_events()  # for a program that had imported it before

__all__ = ["onnxruntime"]
