#!/usr/bin/env bash
# SimpleITK 2.5.7 (ITK 5.4, GDCM), CT Image Storage with Photometric Interpretation (0028,0004) MONOCHROME1
#
# Expected: MONOCHROME1, which CT images may have (PS3.3 C.8.2.1), only means that the lowest value is displayed
# white (C.7.6.3.1.2). Rescale applies to the stored values (C.11.1), so that a series has the same HU with
# MONOCHROME1 as with MONOCHROME2.
# Observed: the stored values are subtracted from the largest one of Bits Stored before the rescale: with 12 bits and an
# intercept of -1024, brain of 40 HU is read as 2007 and air of -1000 as 3047, without a warning. pydicom, dcm2niix
# 1.0.20260724 and dicom2nifti 2.6.2 give the HU of the header. An archive of one hospital may hold both kinds.
#
# Exits 1 if SimpleITK gives the HU, or another program inverts too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check SimpleITK==2.5.7 pydicom==3.0.2 \
  dcm2niix==1.0.20260724 dicom2nifti==2.6.2 nibabel==5.4.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import dcm2niix
import dicom2nifti
import nibabel
import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_rescale
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AIR, BRAIN, SLICES = -1000, 40, 6
stored = np.full((16, 16), BRAIN + 1024, np.uint16)
stored[:, 8:] = AIR + 1024


def write(folder: Path, interpretation: str) -> list[str]:
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir()
    for number in range(SLICES):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.PatientID = data.PatientName = "phantom"
        data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.Manufacturer, data.ProtocolName = "SIEMENS", "head"
        data.StudyDate, data.StudyTime = "20200101", "120000"
        data.SeriesNumber, data.InstanceNumber = 1, number + 1
        data.ImagePositionPatient = [0, 0, 5 * number]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [1, 1], 5
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, interpretation
        data.Rows, data.Columns = stored.shape
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
        data.PixelData = stored.tobytes()
        data["PixelData"].VR = "OW"
        data.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return [str(folder / f"{number}.dcm") for number in range(SLICES)]


def read(folder: Path, files: list[str]) -> dict[str, list[float]]:
    image = SimpleITK.ReadImage(files)
    header = pydicom.dcmread(files[0])
    out = Path(f"{folder}-out")
    out.mkdir()
    command = [dcm2niix.bin, "-o", str(out), "-f", "volume", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    dicom2nifti.dicom_series_to_nifti(str(folder), str(out / "d2n.nii"))
    volumes = {
        f"SimpleITK {SimpleITK.Version_VersionString()}": SimpleITK.GetArrayFromImage(image),
        f"pydicom {version('pydicom')}": apply_rescale(header.pixel_array, header),
        f"dcm2niix {version('dcm2niix')}": nibabel.load(out / "volume.nii").get_fdata(),
        f"dicom2nifti {version('dicom2nifti')}": nibabel.load(out / "d2n.nii").get_fdata(),
    }
    return {name: np.unique(values).tolist() for name, values in volumes.items()}


as_expected = True
for interpretation in ("MONOCHROME2", "MONOCHROME1"):
    folder = Path(interpretation)
    for name, values in read(folder, write(folder, interpretation)).items():
        print(f"{interpretation}, {name}: {values} HU")
        turned = interpretation == "MONOCHROME1" and name.startswith("SimpleITK")
        as_expected &= values == ([2007, 3047] if turned else [AIR, BRAIN])
sys.exit(not as_expected)
PYTHON
