#!/usr/bin/env bash
# dicom2nifti 2.6.2 and dcm2niix 1.0.20260724, a CT whose Instance Numbers do not follow the slice positions
#
# Expected: slices are ordered by Image Position (Patient); Instance Number only identifies an image (PS3.3 C.7.6.1) and
# may follow the acquisition (every other slice first). Six equidistant slices are one volume of six.
# Observed: dicom2nifti orders by Instance Number, interprets the step back as the start of a second time point, and
# fails with "AttributeError: 'FileDataset' object has no attribute 'RepetitionTime'", which no CT has. dcm2niix skips each
# slice that goes backwards, writes a volume of three of the six slices with twice the slice distance, and exits with 0 (one
# line of its output reports skipped slices).
#
# Exits 1 if either makes a volume of six slices.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  dicom2nifti==2.6.2 dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import dicom2nifti
import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

study, series, frame = generate_uid(), generate_uid(), generate_uid()
Path("ct").mkdir()
for place, number in enumerate([1, 4, 2, 5, 3, 6]):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
    image.Modality, image.PatientName, image.PatientID, image.Manufacturer = "CT", "", "1", "SIEMENS"
    image.ImageType, image.SeriesNumber, image.AcquisitionNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 1, 1
    image.InstanceNumber = number
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, place], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [1, 1], 1
    image.Rows = image.Columns = 8
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.RescaleSlope, image.RescaleIntercept = "1", "0"
    image.PixelData = np.full((8, 8), 100 * (place + 1), "<i2").tobytes()
    image.save_as(f"ct/{place}.dcm", enforce_file_format=True)

print("dicom2nifti", version("dicom2nifti"), "dcm2niix", version("dcm2niix"))
try:
    dicom2nifti.dicom_series_to_nifti("ct", "by_dicom2nifti.nii", reorient_nifti=False)
    shape = nibabel.load("by_dicom2nifti.nii").shape
except AttributeError as error:
    shape = None
    print("dicom2nifti: AttributeError:", error)
ended = subprocess.run(
    [str(Path(sys.executable).parent / "dcm2niix"), "-f", "by_dcm2niix", "ct"], capture_output=True, text=True
)
image = nibabel.load("ct/by_dcm2niix.nii")
values = np.asanyarray(image.dataobj)[0, 0].tolist()
print(f"dcm2niix: exit {ended.returncode}, shape {image.shape}, slices {values}, distance {image.header.get_zooms()[2]}")
sys.exit(not (shape is None and ended.returncode == 0 and image.shape[2] == 3))
PYTHON
