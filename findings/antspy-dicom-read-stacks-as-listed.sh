#!/usr/bin/env bash
# antspyx 0.6.3 (ANTsPy), dicom_read of a folder that holds a CT series
#
# Expected: `ants.dicom_read`, "read a set of dicom files in a directory into a single ANTsImage", orders slices by
# Image Position (Patient) (0020,0032; PS3.3 C.7.6.2), with their distance as the spacing, as SimpleITK's series reader
# does, which has the same ITK below.
# Observed: slices are stacked as os.listdir lists the files, which is an order of the file system, not of names; only
# names that end with .dcm count. The spacing along the third axis is that of the first file by itself: its Spacing
# Between Slices (0018,0088), which a CT image need not have, otherwise 1 mm, whatever the distance. 30 slices of 5 mm
# become 29 mm of a head with its slices shuffled, without a warning. The documentation mentions the origin alone. The
# order is known since 2020 (ANTsX/ANTsPy issue 183, open); a head that is registered after `dicom_read` is wrong by
# another amount on another disk.
#
# The script has the file system list the even slices first, by the names that it gives them.
# Exits 1 if the slices are in the order of their positions, or 5 mm apart.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  antspyx==0.6.3 SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.3.5
cd "$work"
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore - <<'PYTHON'
import os
import sys
from importlib.metadata import version
from pathlib import Path

import ants
import numpy as np
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SLICES, STEP, SIDE = 30, 5.0, 16
folder = Path("ct")
folder.mkdir()
for number in range(SLICES):
    (folder / f"{number:03}.dcm").touch()
names = os.listdir(folder)
places = [*range(0, SLICES, 2), *range(1, SLICES, 2)]
study, series, frame = generate_uid(), generate_uid(), generate_uid()
for name, place in zip(names, places):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
    data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 1, place + 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, STEP * place], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.SliceLocation = [0.5, 0.5], STEP, STEP * place
    data.Rows = data.Columns = SIDE
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.PixelData = np.full((SIDE, SIDE), place, "<i2").tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(folder / name, enforce_file_format=True)
assert os.listdir(folder) == names, "the folder is listed in another order now"

image = ants.dicom_read(str(folder))
order = image.numpy()[0, 0].astype(int).tolist()
other = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
by_itk = SimpleITK.GetArrayFromImage(other)[:, 0, 0].tolist()
off = max(abs(image.origin[2] + image.spacing[2] * number - STEP * place) for number, place in enumerate(order))
print(f"antspyx {version('antspyx')}: spacing {image.spacing}, slices by their places from below {order};")
print(f"  one is {off:.0f} mm from its Image Position (Patient)")
print(f"SimpleITK {SimpleITK.Version_VersionString()}: spacing {other.GetSpacing()}, slices {by_itk}")
right = by_itk == list(range(SLICES)) and other.GetSpacing()[2] == STEP
sys.exit(not (right and order == places and image.spacing[2] == 1))
PYTHON
