"""The short way from an element's bytes to its values gives what pydicom gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import ct_image, save

from preprocess.dicom import header
from preprocess.dicom.sources import file_source
from preprocess.reasons import Rejection

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
"""Files of many vendors, syntaxes and character sets that pydicom's package holds."""


def rows(path: Path) -> object:
    with path.open("rb") as file:
        try:
            return header.read_header(file, file_source(path, path.stat()))
        except Rejection as rejection:
            return rejection.reason


def test_values_are_pydicoms(
    shared_dicom: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [path for path in BUNDLED.rglob("*") if path.is_file()]
    for folder in ("dcm_qa_ct", "dicom2nifti"):
        files += [path for path in shared_dicom(folder).rglob("*") if path.is_file()]
    odd = ct_image(np.zeros((4, 4), np.int16), SpecificCharacterSet="ISO_IR 192", KVP=None)
    odd.SeriesDescription, odd.ProtocolName, odd.StudyDescription = "Schädel nativ", "a\\ b \\c ", ""
    odd.add_new("KVP", "LO", "none")
    files.append(save(odd, tmp_path / "odd"))
    short = {path: rows(path) for path in files}
    assert sum(isinstance(found, list) and len(found) > 0 for found in short.values()) > 150
    monkeypatch.setattr(header, "_plain_values", lambda element, vr: None)
    for path in files:
        assert rows(path) == short[path], path.name
