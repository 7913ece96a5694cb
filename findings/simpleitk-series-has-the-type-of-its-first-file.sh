#!/usr/bin/env bash
# SimpleITK 2.5.7, a CT series with a separate Rescale Slope for each slice
#
# Expected: ImageSeriesReader returns the same values for the same slices in any order; slopes are per
# image (PS3.3 C.11.1), and if one of them is 0.5 the volume has fractional values.
# Observed: the pixel type of the volume is that of the first file after its rescale: int16 if its slope is 1. The
# later slices' values are silently truncated to it: 200.5 becomes 200. With the same files in reverse order the volume is
# float64 and has 200.5.
#
# Exits 1 if both orders give the same values now.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

study, series, frame = generate_uid(), generate_uid(), generate_uid()
names = []
for number, (stored, slope) in enumerate([(200, "1"), (401, "0.5"), (601, "0.5")]):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
    image.Modality, image.PatientName, image.PatientID = "CT", "", "1"
    image.InstanceNumber = number + 1
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [1, 1], 1
    image.Rows = image.Columns = 4
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = slope, "0", "HU"
    image.PixelData = np.full((4, 4), stored, "<i2").tobytes()
    names.append(f"{number}.dcm")
    image.save_as(names[-1], enforce_file_format=True)

print("SimpleITK", SimpleITK.Version_VersionString())
values = []
for order in (names, names[::-1]):
    volume = SimpleITK.ReadImage(order)
    values.append(sorted(SimpleITK.GetArrayFromImage(volume)[:, 0, 0].tolist()))
    print(order, volume.GetPixelIDTypeAsString(), values[-1])
sys.exit(values != [[200, 200, 300], [200.0, 200.5, 300.5]])
PYTHON
