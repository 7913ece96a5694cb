#!/usr/bin/env bash
# pydicom 3.0.2, Deflated Explicit VR Little Endian (1.2.840.10008.1.2.1.99)
#
# Expected: the cost of `dcmread(path, stop_before_pixels=True)` is that of the header, in every transfer syntax,
# because it stops before Pixel Data (7FE0,0010).
# Observed: the whole data set of a deflated file, including the pixels, is first inflated in memory and then
# parsed up to the pixels. Reading the header of one CT slice of 2048 x 2048 takes about 10 MiB and the time to inflate
# them; for the same slice uncompressed it takes a few kB. `specific_tags` and `defer_size` have no effect.
# So a scan of an archive's headers inflates all deflated pixels, in memory too.
#
# Exits 1 if a header-only read of the deflated file no longer needs as much memory as its pixels have bytes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pydicom==3.0.2 numpy==2.4.6
"$work/venv/bin/python" - "$work" <<'PYTHON'
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid

SIDE = 2048
work = Path(sys.argv[1])


def write(syntax: str, path: Path) -> None:
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.Modality = "CT"
    data.Rows = data.Columns = SIDE
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PixelData = np.random.default_rng(0).integers(-1000, 1000, (SIDE, SIDE), np.int16).tobytes()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(path, enforce_file_format=True)


def peak(path: Path, **options: object) -> int:
    """Bytes that Python has at most while a header is read."""
    tracemalloc.start()
    header = pydicom.dcmread(path, stop_before_pixels=True, **options)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.Modality == "CT"
    assert "PixelData" not in header
    return most


write(ExplicitVRLittleEndian, work / "plain.dcm")
write(DeflatedExplicitVRLittleEndian, work / "deflated.dcm")
pixels = 2 * SIDE * SIDE
peak(work / "plain.dcm")  # imports
plain, deflated = peak(work / "plain.dcm"), peak(work / "deflated.dcm")
chosen = peak(work / "deflated.dcm", specific_tags=["Modality"], defer_size=1024)
print(f"pydicom {pydicom.__version__}, {pixels} bytes of pixels; most memory while the header is read:")
print(f"  uncompressed {plain}, deflated {deflated}, deflated with specific_tags and defer_size {chosen}")
sys.exit(not (plain < pixels / 10 and deflated > pixels and chosen > pixels))
PYTHON
