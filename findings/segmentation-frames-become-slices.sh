#!/usr/bin/env bash
# SimpleITK 2.5.7 and dcm2niix 1.0.20260724, a DICOM segmentation of two findings (made with highdicom 0.28.2)
#
# Expected: a binary Segmentation (PS3.3 A.51) of two segments on a CT of five slices, the first on slices 1 and 2,
# the second on slices 1 to 3, is read as masks on those slices: each frame has its segment and its position.
# Observed: both programs stack the five frames as five slices, SimpleITK one segment after the other, dcm2niix by
# position, so that slices with both segments occur twice, and both segments are on other slices than they were
# drawn on. Neither warns; dcm2niix exits with 0. Inside voxels are 255 in SimpleITK and 1 in dcm2niix, and SimpleITK has a
# spacing of 1 x 1 x 1 mm although the file's is 3 x 0.5 x 0.5 mm.
# highdicom's `get_volume` returns the three slices from the first to the last with any segment, by segment.
#
# Exits 1 if either makes anything but five slices of it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  highdicom==0.28.2 pydicom==3.0.2 SimpleITK==2.5.7 dcm2niix==1.0.20260724 nibabel==5.4.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

study, series, frame = generate_uid(), generate_uid(), generate_uid()
slices = []
for place in range(5):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
    image.StudyDate = image.StudyTime = image.StudyID = image.AccessionNumber = image.ReferringPhysicianName = ""
    image.PatientName = image.PatientBirthDate = image.PatientSex = image.PositionReferenceIndicator = ""
    image.PatientID, image.Modality, image.SeriesNumber, image.InstanceNumber = "1", "CT", 1, place + 1
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 3 * place], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [0.5, 0.5], 1
    image.Rows, image.Columns = 8, 10
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.PixelData = np.zeros((8, 10), "<i2").tobytes()
    slices.append(image)

masks = np.zeros((5, 8, 10, 2), bool)
masks[1:3, 2, 3, 0] = True
masks[1:4, 4, 5, 1] = True
segments = [
    highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="MANUAL",
    )
    for number, label in ((1, "first"), (2, "second"))
]
Path("seg").mkdir()
highdicom.seg.Segmentation(
    source_images=slices,
    pixel_array=masks,
    segmentation_type="BINARY",
    segment_descriptions=segments,
    series_instance_uid=highdicom.UID(),
    series_number=2,
    sop_instance_uid=highdicom.UID(),
    instance_number=1,
    manufacturer="none",
    manufacturer_model_name="none",
    software_versions="1",
    device_serial_number="1",
).save_as("seg/masks.dcm")

print(*(f"{name} {version(name)}" for name in ("highdicom", "SimpleITK", "dcm2niix")))
volume = highdicom.seg.segread("seg/masks.dcm").get_volume()
print("highdicom: shape", volume.array.shape, "spacing", volume.spacing)
image = SimpleITK.ReadImage("seg/masks.dcm")
by_itk = SimpleITK.GetArrayFromImage(image)
print("SimpleITK: shape", by_itk.shape, "values", np.unique(by_itk), "spacing", image.GetSpacing())
ended = subprocess.run(
    [str(Path(sys.executable).parent / "dcm2niix"), "-f", "masks", "seg"], capture_output=True, text=True
)
image = nibabel.load("seg/masks.nii")
by_dcm2niix = np.asanyarray(image.dataobj)
print("dcm2niix: shape", image.shape, "values", np.unique(by_dcm2niix), "spacing", image.header.get_zooms())
print("slices of the first and of the second segment:")
print("  as masked  ", [np.flatnonzero(masks[..., number].any(axis=(1, 2))).tolist() for number in (0, 1)])
print("  SimpleITK  ", [np.flatnonzero(by_itk[:, 2, 3]).tolist(), np.flatnonzero(by_itk[:, 4, 5]).tolist()])
print("  dcm2niix   ", [np.flatnonzero(by_dcm2niix[3, 5]).tolist(), np.flatnonzero(by_dcm2niix[5, 3]).tolist()])
as_seen = by_itk.shape == (5, 8, 10) and by_dcm2niix.shape == (10, 8, 5) and ended.returncode == 0
sys.exit(not (as_seen and volume.array.shape == (3, 8, 10, 2)))
PYTHON
