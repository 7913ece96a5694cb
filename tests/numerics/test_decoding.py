"""Decoded HU against SimpleITK's (GDCM's) reader: every CT of pydicom's own test data, and real series.

pydicom's packaged CTs, which need no download: CT_small, 693_J2KI (lossy JPEG 2000, 14 bits),
J2K_pixelrep_mismatch (a codestream that contradicts its header), and eleven under dicomdirtests.
"""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import scanned

from preprocess.dicom.decode import AIR_HU, MIN_HU, Decoder

PACKAGED = Path(pydicom.__file__).parent / "data" / "test_files"


def packaged_ct() -> list[Path]:
    collected = []
    for path in sorted(PACKAGED.rglob("*")):
        if not path.is_file():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                data = pydicom.dcmread(path, stop_before_pixels=True)
            except Exception:
                continue
        if data.get("Modality") == "CT" and "Rows" in data:
            collected.append(path)
    return collected


def agrees(path: Path, folder: Path) -> bool:
    """Whether our HU equal GDCM's, except outside the reconstruction circle."""
    folder.mkdir()
    shutil.copy(path, folder / "file")
    instances = scanned(folder)[0].instances
    with Decoder() as decoder:
        ours = np.stack([decoder.decode(instance).hu for instance in instances])
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(folder / "file", imageIO="GDCMImageIO"))
    return np.array_equal(ours, np.where(theirs < MIN_HU, AIR_HU, theirs))


def test_every_ct_of_pydicoms_test_data_decodes_as_gdcm_does(tmp_path: Path) -> None:
    paths = packaged_ct()
    assert {"CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"} <= {path.name for path in paths}
    assert len(paths) >= 14
    assert not [path.name for n, path in enumerate(paths) if not agrees(path, tmp_path / str(n))]


@pytest.mark.parametrize("name", ["dcm_qa_ct/philips_S21610/S3010", "dicom2nifti/failing/sliceincrement"])
def test_real_slices_decode_as_gdcm_does(
    name: str, shared_dicom: Callable[[str], Path], tmp_path: Path
) -> None:
    paths = [path for path in sorted(shared_dicom(name).rglob("*")) if path.is_file()]
    images = [path for path in paths if path.name != "DIRFILE"][::4]
    assert len(images) >= 2
    assert not [path.name for n, path in enumerate(images) if not agrees(path, tmp_path / str(n))]


def test_the_real_head_decodes_as_gdcm_does(tmp_path: Path) -> None:
    paths = sorted((Path(__file__).parents[1] / "data" / "ge_head_tilt18").glob("*.dcm"))[::9]
    assert not [path.name for n, path in enumerate(paths) if not agrees(path, tmp_path / str(n))]
