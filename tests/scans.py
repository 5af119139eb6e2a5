"""DICOM files with whatever header, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from robustcheck.data.files import FileImages, open_files
from robustcheck.errors import DataError

CT = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}


def save_scan(path: Path, stored: np.ndarray, *, bits: int | None = None, **header: Any) -> Path:
    """Write stored values (H, W), or (H, W, 3), of 8 or 16 bits; `header` adds to what that needs, None takes away."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = header.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid(entropy_srcs=[path.name])
    data.PatientName, data.Modality = "Somebody^Private", "DX"
    allocated = 8 * stored.dtype.itemsize
    data.Rows, data.Columns = stored.shape[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit = allocated, bits or allocated, (bits or allocated) - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.SamplesPerPixel = 1 if stored.ndim == 2 else 3
    data.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    if stored.ndim == 3:
        data.PlanarConfiguration = 0
    for name, value in header.items():
        if value is None:
            del data[name]
        else:
            setattr(data, name, value)
    data["PixelData"] = data.data_element("PixelData") if "PixelData" in data else _pixels(stored)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def open_scan(path: Path, **options: Any) -> FileImages:
    """The images of one file."""
    return open_files([(path.name, path)], **options)


def refusal_of(path: Path, **options: Any) -> str:
    """What is said of a file that cannot be judged."""
    with pytest.raises(DataError) as caught:
        open_scan(path, **options).image(0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _pixels(stored: np.ndarray) -> Any:
    from pydicom.dataelem import DataElement

    content = stored.tobytes()
    return DataElement("PixelData", "OB" if stored.dtype.itemsize == 1 else "OW", content + b"\0" * (len(content) % 2))
