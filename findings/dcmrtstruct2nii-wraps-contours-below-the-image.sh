#!/usr/bin/env bash
# dcmrtstruct2nii 5 with pydicom 2.4.5, a structure set (made with rt-utils 1.2.7) that is larger than the image series
#
# Expected: contours outside of the image are left out with the warning "out of bounds, ignoring contour!", as for one
# above its last slice. A structure set refers to a frame of reference (PS3.3 C.8.8.5), which other series share, so
# that a scan of the head alone with the contours of a longer one is valid.
# Observed: a contour below the first slice has a negative index, which NumPy counts from the end: 10 mm below an image
# of 20 slices of 5 mm it is drawn on slice 18, near the vertex, 100 mm from its place. Nothing is logged. As contours
# are combined by XOR, it also makes a hole in what the structure has there. No issue of dcmrtstruct2nii was found about
# it; it needs pydicom 2 (`read_file`).
#
# Exits 1 if the contour below is left out, or one within the image is not drawn as it is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  dcmrtstruct2nii==5 rt-utils==1.2.7 pydicom==2.4.5 SimpleITK==2.5.7 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import contextlib
import io
import logging
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rt_utils import RTStructBuilder

with contextlib.redirect_stdout(io.StringIO()):  # its request to be cited
    from dcmrtstruct2nii import dcmrtstruct2nii

SLICES, BELOW, ABOVE, SIDE, STEP = 20, 2, 1, 32, 5
"""Slices of the head; slices of the long scan below and above it; pixels; mm."""
EMPTY = (
    "StudyDate StudyTime StudyDescription SeriesDescription PatientName PatientID PatientBirthDate PatientSex "
    "PatientAge PatientSize PatientWeight StudyID AccessionNumber ReferringPhysicianName InstitutionName Manufacturer"
)


def write(folder: Path) -> None:
    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for number in range(BELOW + SLICES + ABOVE):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        for keyword in EMPTY.split():
            setattr(data, keyword, "")
        data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 1, number + 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, STEP * number], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [1, 1], STEP
        data.Rows = data.Columns = SIDE
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 1
        data.RescaleSlope, data.RescaleIntercept = "1", "0"
        data.PixelData = bytes(2 * SIDE * SIDE)
        data.is_little_endian, data.is_implicit_VR = True, False
        data.save_as(folder / f"{number:03}.dcm", write_like_original=False)


def mask(*numbers: int) -> np.ndarray:
    drawn = np.zeros((SIDE, SIDE, BELOW + SLICES + ABOVE), bool)
    drawn[10:20, 10:20, list(numbers)] = True
    return drawn


write(Path("long"))
shutil.copytree("long", "head")
for number in (*range(BELOW), BELOW + SLICES):
    Path(f"head/{number:03}.dcm").unlink()
drawn = {"within": (BELOW + 3,), "below": (0,), "above": (BELOW + SLICES,)}
structures = RTStructBuilder.create_new(dicom_series_path="long")
for name, numbers in drawn.items():
    structures.add_roi(mask=mask(*numbers), name=name)
with contextlib.redirect_stdout(io.StringIO()):
    structures.save("structures.dcm")

log = io.StringIO()
logging.basicConfig(stream=log, level=logging.WARNING)
dcmrtstruct2nii("structures.dcm", "head", "masks", gzip=False, convert_original_dicom=False)
print(f"dcmrtstruct2nii {version('dcmrtstruct2nii')}, rt-utils {version('rt-utils')}; a head of {SLICES} slices:")
found = {}
for name, numbers in drawn.items():
    path = Path(f"masks/mask_{name}.nii")
    voxels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) if path.exists() else np.zeros((1, 1, 1))
    found[name] = np.flatnonzero(voxels.any(axis=(1, 2))).tolist()
    place = [number - BELOW for number in numbers]
    print(f"  drawn {name}, on slice {place}: on {found[name]}")
print("logged:", log.getvalue().strip())
sys.exit(not (found == {"within": [3], "below": [SLICES - BELOW], "above": []} and "below" not in log.getvalue()))
PYTHON
