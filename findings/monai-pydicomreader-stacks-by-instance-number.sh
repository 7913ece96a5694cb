#!/usr/bin/env bash
# MONAI 1.6.1 with pydicom 3.0.2, LoadImage of a folder that holds a CT series
#
# Expected: slices are stacked by Image Position (Patient) (0020,0032), as in ITK; Instance Number (0020,0013)
# does not define a position (PS3.3 C.7.6.1), and if it contradicts the positions there is an error or a warning.
# Observed: PydicomReader, which LoadImage uses for a folder if `itk` is not installed, sorts only by Instance Number.
# A series that was acquired interleaved and numbered in that order becomes a volume with its slices in that
# order, whose affine claims equal steps: of 12 slices of 5 mm some are 25 mm from their positions, without a warning.
# If `itk` is installed, the same call reads the same folder correctly.
#
# Exits 1 if the slices are in the order of their positions, or if there is a warning about them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" --no-deps monai==1.6.1 torch==2.13.0
"${pip[@]}" pydicom==3.0.2 numpy==2.4.6 filelock fsspec jinja2 networkx "setuptools>=77" sympy typing_extensions
"$work/venv/bin/python" - "$work" <<'PYTHON'
import math
import sys
import warnings
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SLICES, SIDE, STEP = 12, 16, 5.0
folder = Path(sys.argv[1]) / "series"
folder.mkdir()
study, series, frame = (generate_uid() for _ in range(3))
for place in range(SLICES):
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
    data.Modality, data.SeriesNumber = "CT", 1
    data.InstanceNumber = place // 2 + 1 + (place % 2) * SLICES // 2  # the even ones first
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, STEP * place], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], STEP
    data.Rows = data.Columns = SIDE
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation, data.RescaleIntercept, data.RescaleSlope = "MONOCHROME2", 0, 1
    data.PixelData = np.full((SIDE, SIDE), place, np.int16).tobytes()
    data["PixelData"].VR = "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(folder / f"{place:03}.dcm", enforce_file_format=True)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import monai
    from monai.transforms import LoadImage

    image = LoadImage(image_only=True)(folder)
about = [str(one.message) for one in caught if any(word in str(one.message) for word in ("slice", "Instance"))]
order = image[0, 0].numpy().astype(int).tolist()
claimed = [float((image.affine.numpy() @ [0, 0, k, 1])[2]) for k in range(SLICES)]
off = max(math.dist([z], [STEP * place]) for z, place in zip(claimed, order))
print(f"MONAI {monai.__version__}: slices by their places from below are stacked as {order};")
print(f"  the affine puts one {off:.1f} mm from its Image Position (Patient); warnings of it: {about}")
sys.exit(order == list(range(SLICES)) or bool(about))
PYTHON
