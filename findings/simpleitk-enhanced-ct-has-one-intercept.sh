#!/usr/bin/env bash
# SimpleITK 2.5.7 (ITK 5.4, GDCM), Enhanced CT Image Storage (1.2.840.10008.5.1.4.1.1.2.1)
#
# Expected: the Rescale Intercept in a frame's Pixel Value Transformation Sequence (0028,9145), in
# Per-Frame Functional Groups (PS3.3 section C.7.6.16.2.9), is applied to that frame.
# Observed: the first frame's intercept is applied to all of them. Frames stored with another intercept are not in
# Hounsfield units: of four frames of 40, 50, 60 and 70 HU two are read as -964 and 46, without a warning.
# Writers use an intercept per frame if they fit each frame's range to the stored bits.
#
# Exits 1 if all frames have the HU of their own intercepts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6 SimpleITK==2.5.7
"$work/venv/bin/python" - "$work" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SIDE, HU, INTERCEPTS = 16, (40, 50, 60, 70), (-1024, -1024, 0, -1000)


def item(**attributes: object) -> Dataset:
    data = Dataset()
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


def frame(number: int) -> Dataset:
    intercept = INTERCEPTS[number]
    return item(
        FrameContentSequence=[item(StackID="1", InStackPositionNumber=number + 1)],
        PlanePositionSequence=[item(ImagePositionPatient=[-8, -8, 5.0 * number])],
        PixelValueTransformationSequence=[
            item(RescaleIntercept=intercept, RescaleSlope=1, RescaleType="HU")
        ],
    )


data = Dataset()
data.SOPClassUID, data.SOPInstanceUID = EnhancedCTImageStorage, generate_uid()
data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
data.Modality, data.InstanceNumber, data.NumberOfFrames = "CT", 1, len(HU)
data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
data.Rows = data.Columns = SIDE
data.BitsAllocated = data.BitsStored = 16
data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
data.PhotometricInterpretation = "MONOCHROME2"
data.SharedFunctionalGroupsSequence = [
    item(
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=5)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
]
data.PerFrameFunctionalGroupsSequence = [frame(number) for number in range(len(HU))]
stored = [np.full((SIDE, SIDE), hu - intercept, np.int16) for hu, intercept in zip(HU, INTERCEPTS)]
data.PixelData = np.stack(stored).tobytes()
data["PixelData"].VR = "OW"
data.file_meta = FileMetaDataset()
data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
path = Path(sys.argv[1]) / "enhanced.dcm"
data.save_as(path, enforce_file_format=True)

read = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[:, 0, 0].tolist()
print(f"SimpleITK {sitk.Version.VersionString()}: frames of {list(HU)} HU are read as {read}")
sys.exit(read != [hu - intercept + INTERCEPTS[0] for hu, intercept in zip(HU, INTERCEPTS)])
PYTHON
