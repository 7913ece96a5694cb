#!/usr/bin/env bash
# SimpleITK 2.5.7 (ITK 5.4), a CT series from a tilted gantry
#
# Expected: a series whose slices are not stacked along their normal, as with a tilted gantry, is read
# with the position of every slice, or rejected, or causes a warning, as uneven distances do.
# Observed: ImageSeriesReader uses the normal of the first slice as the third axis and the length of the step as
# its spacing. An image's geometry cannot represent shear, and there is no warning: the last of 20 slices, tilted by
# 18 degrees, is 29.7 mm from its Image Position (Patient) (0020,0032).
# Head CT was acquired with a tilted gantry for decades, to spare the lenses.
#
# Exits 1 if the last slice is at the position in its header, or if there is a warning.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6 SimpleITK==2.5.7
"$work/venv/bin/python" - "$work" 2> "$work/stderr" <<'PYTHON' || { cat "$work/stderr"; exit 1; }
import math
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SLICES, SIDE, STEP, TILT = 20, 32, 5.0, math.radians(18)
folder = Path(sys.argv[1]) / "series"
folder.mkdir()
study, series, frame = (generate_uid() for _ in range(3))
position = [-60.0, -60.0, 0.0]
for number in range(SLICES):
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
    data.Modality, data.InstanceNumber = "CT", number + 1
    position = [-60.0, -60.0, STEP * number]
    data.ImagePositionPatient = position
    data.ImageOrientationPatient = [1, 0, 0, 0, round(math.cos(TILT), 6), round(-math.sin(TILT), 6)]
    data.GantryDetectorTilt, data.PixelSpacing, data.SliceThickness = 18, [4, 4], STEP
    data.Rows = data.Columns = SIDE
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation, data.RescaleIntercept, data.RescaleSlope = "MONOCHROME2", 0, 1
    data.PixelData = np.full((SIDE, SIDE), number, np.int16).tobytes()
    data["PixelData"].VR = "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)

image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
assert image.GetPixel(0, 0, SLICES - 1) == SLICES - 1, "slices are in order"
claimed = image.TransformIndexToPhysicalPoint((0, 0, SLICES - 1))
off = math.dist(claimed, position)
print(f"SimpleITK {sitk.Version.VersionString()}: the last slice begins at {position},")
print(f"  by the image's geometry at {[round(x, 1) for x in claimed]}: {off:.1f} mm off")
sys.exit(not 29 < off < 30)
PYTHON
if grep -qi "warn" "$work/stderr"; then
  cat "$work/stderr"
  exit 1
fi
echo "  and no warning"
