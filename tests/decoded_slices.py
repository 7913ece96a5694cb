"""Images of CT and their slices in HU, for the tests of decoding."""

from pathlib import Path
from typing import Any

import numpy as np
from dicom_files import ct_image, save, scanned
from pydicom.dataset import FileDataset

from preprocess.dicom.catalog import Instance
from preprocess.dicom.decode import Decoder, Slice

STORED = np.random.default_rng(0).integers(0, 3000, (64, 96)).astype(np.uint16)


def decode(instance: Instance) -> Slice:
    with Decoder() as decoder:
        return decoder.decode(instance)


def decoded(data: FileDataset, folder: Path) -> Slice:
    save(data, folder / "file")
    return decode(scanned(folder)[0].instances[0])


def hu(tmp_path: Path, stored: np.ndarray = STORED, **attributes: Any) -> np.ndarray:
    return decoded(ct_image(stored, **attributes), tmp_path / "export").hu
