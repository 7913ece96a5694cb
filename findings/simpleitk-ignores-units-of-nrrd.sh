#!/usr/bin/env bash
# SimpleITK 2.5.7, an NRRD with `space units`
#
# Expected: SimpleITK, which converts a NIfTI in metres to millimetres, does the same for an NRRD whose `space units`
# (a field of the format's definition) are "cm" or "m", or rejects it.
# Observed: the field is ignored. A vector of 0.2 cm becomes a spacing of 0.2, which every filter and every other
# format interprets as millimetres; NIfTI files written from it declare mm, and the header's unit is lost.
#
# Exits 1 if the unit is respected now.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pynrrd==1.1.3 nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import nibabel
import nrrd
import numpy as np
import SimpleITK

print("SimpleITK", SimpleITK.Version_VersionString())
lost = True
for unit, factor in (("mm", 1.0), ("cm", 0.1), ("m", 0.001)):
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([2.0, 2.0, 5.0]) * factor,
        "space origin": [0.0, 0.0, 0.0],
        "space units": [unit] * 3,
        "encoding": "raw",
    }
    nrrd.write("image.nrrd", np.zeros((3, 4, 5), np.int16), header)
    image = SimpleITK.ReadImage("image.nrrd")
    SimpleITK.WriteImage(image, "image.nii")
    written = nibabel.load("image.nii").header
    print(f"{unit}: spacing {image.GetSpacing()}, as NIfTI {written.get_zooms()} {written.get_xyzt_units()[0]}")
    lost &= np.allclose(image.GetSpacing(), np.array([2, 2, 5]) * factor) and written.get_xyzt_units()[0] == "mm"
sys.exit(not lost)
PYTHON
