#!/usr/bin/env bash
# dicom2nifti 2.6.2, SimpleITK 2.5.7 (ITK 5.4, GDCM) and dcm2niix 1.0.20260724, Enhanced CT Image Storage whose frames
# are not stored in the order of their In-Stack Position Numbers
#
# Expected: each frame is placed by its own Image Position (Patient) in the Plane Position macro (PS3.3 C.7.6.16.2.3),
# in whatever order frames are stored; In-Stack Position Number (C.7.6.16.2.2) orders the frames of a stack.
# Observed: dicom2nifti takes voxels in the order of In-Stack Position Number, but computes the affine from the first
# and the last frame as stored. With frames from the vertex down and numbers from the base up, as here, the head is
# mirrored: each of 30 slices is at its counterpart's place, up to 145 mm away. SimpleITK stacks frames as stored; if
# the even ones are stored first, 30 slices of 5 mm become a volume of 1 mm slices in this order, 29 mm high. Neither
# warns. dcm2niix puts all slices of both files where they belong.
#
# Exits 1 if dicom2nifti or SimpleITK places them correctly, or dcm2niix does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  dicom2nifti==2.6.2 SimpleITK==2.5.7 dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import dcm2niix
import dicom2nifti
import nibabel
import numpy as np
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SLICES, STEP, SIDE = 30, 5, 16
STACK_ID, POSITION, FRAME_CONTENT = 0x00209056, 0x00209057, 0x00209111


def item(**values: object) -> Dataset:
    data = Dataset()
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


def frame(place: int) -> Dataset:
    """The functional groups of the slice at `place` from the base, which is also its position in the stack."""
    content = item(
        FrameAcquisitionNumber=1,
        FrameReferenceDateTime="20200101120000",
        FrameAcquisitionDateTime="20200101120000",
        FrameAcquisitionDuration=1000.0,
        StackID="1",
        InStackPositionNumber=place + 1,
        DimensionIndexValues=[1, place + 1],
    )
    return item(
        FrameContentSequence=[content],
        PlanePositionSequence=[item(ImagePositionPatient=[0, 0, STEP * place])],
        PixelValueTransformationSequence=[item(RescaleIntercept=0, RescaleSlope=1, RescaleType="HU")],
    )


def write(path: Path, places: list[int]) -> None:
    """Frames in the order of `places`; the voxels of each have its place as their value."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = EnhancedCTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.PatientName = data.PatientID = "phantom"
    data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 1, 1
    data.Manufacturer, data.ImageType = "none", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.StudyDate = data.ContentDate = "20200101"
    data.StudyTime = data.ContentTime = "120000"
    data.NumberOfFrames, data.Rows, data.Columns = len(places), SIDE, SIDE
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    dimension = generate_uid()
    data.DimensionOrganizationSequence = [item(DimensionOrganizationUID=dimension)]
    data.DimensionIndexSequence = [
        item(DimensionIndexPointer=of, FunctionalGroupPointer=FRAME_CONTENT, DimensionOrganizationUID=dimension)
        for of in (STACK_ID, POSITION)
    ]
    data.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=STEP)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    data.PerFrameFunctionalGroupsSequence = [frame(place) for place in places]
    data.PixelData = np.stack([np.full((SIDE, SIDE), place, np.int16) for place in places]).tobytes()
    data["PixelData"].VR = "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    path.parent.mkdir()
    data.save_as(path, enforce_file_format=True)


def furthest(values: np.ndarray, heights: np.ndarray) -> float:
    """The distance in mm between the places in the file, which the values are, and the heights by the geometry."""
    return round(float(np.abs(STEP * values - heights).max()), 1)


def by_nibabel(path: Path) -> float:
    image = nibabel.load(path)
    heights = [(image.affine @ [0, 0, number, 1])[2] for number in range(image.shape[2])]
    return furthest(image.get_fdata()[0, 0], np.array(heights))


def by_dicom2nifti(folder: Path) -> float | str:
    path = folder.with_suffix(".nii")
    try:
        dicom2nifti.dicom_series_to_nifti(str(folder), str(path), reorient_nifti=False)
    except dicom2nifti.exceptions.ConversionValidationError as error:
        return f"refused, {error}"
    return by_nibabel(path)


def by_simpleitk(folder: Path) -> float:
    image = SimpleITK.ReadImage(str(folder / "ct.dcm"))
    heights = [image.TransformIndexToPhysicalPoint((0, 0, number))[2] for number in range(image.GetDepth())]
    return furthest(SimpleITK.GetArrayFromImage(image)[:, 0, 0], np.array(heights))


def by_dcm2niix(folder: Path) -> float:
    command = [dcm2niix.bin, "-f", "by_dcm2niix", "-z", "n", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return by_nibabel(folder / "by_dcm2niix.nii")


logging.disable()
print(*(f"{name} {version(name)}" for name in ("dicom2nifti", "simpleitk", "dcm2niix")))
orders = {
    "from-the-base": list(range(SLICES)),
    "from-the-vertex": list(range(SLICES))[::-1],
    "even-ones-first": [*range(0, SLICES, 2), *range(1, SLICES, 2)],
}
found = {}
for name, places in orders.items():
    write(Path(name) / "ct.dcm", places)
    found[name] = [read(Path(name)) for read in (by_dicom2nifti, by_simpleitk, by_dcm2niix)]
    print(f"frames stored {name}: the slice that is furthest from its place, in mm:")
    print("  dicom2nifti {}, SimpleITK {}, dcm2niix {}".format(*found[name]))
image = SimpleITK.ReadImage("even-ones-first/ct.dcm")
slices = SimpleITK.GetArrayFromImage(image)[:, 0, 0].tolist()
print(f"the last by SimpleITK: spacing {image.GetSpacing()}, slices {slices}")
right = found["from-the-base"] == [0, 0, 0] and all(distances[2] == 0 for distances in found.values())
mirrored = found["from-the-vertex"][:2] == [STEP * (SLICES - 1), 0]
sys.exit(not (right and mirrored and found["even-ones-first"][1] > 100 and image.GetSpacing()[2] == 1))
PYTHON
