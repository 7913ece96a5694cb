#!/usr/bin/env bash
# nibabel 5.4.2 and SimpleITK 2.5.7, a NIfTI whose scl_slope is 0 and whose scl_inter is not
#
# Expected: scl_slope = 0 means that stored values are the values (nifti1.h, section on data scaling: values are scaled if
# scl_slope is not zero), so that scl_inter has no effect, and all readers return the same.
# Observed: nibabel returns the stored values. SimpleITK takes a slope of 0 for 1 and adds the intercept: 1064 is 1064 in
# nibabel and 40 in SimpleITK for an intercept of -1024, that of most CT. Neither warns. So brain is read as dense bone by one
# of two programs, depending on whether the file's writer meant its intercept.
#
# Exits 1 if both return the same, or they disagree where the slope is 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import struct
import sys
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

SCALING = 112
"""Offset of scl_slope and scl_inter, two float32 (nifti1.h)."""

image = nibabel.Nifti1Image(np.full((3, 4, 5), 1064, np.int16), np.diag([1, 1, 2, 1]))
nibabel.save(image, "plain.nii")
print("nibabel", nibabel.__version__, "SimpleITK", SimpleITK.Version_VersionString())
found = {}
for slope, intercept in ((1, -1024), (0, 0), (0, -1024)):
    data = bytearray(Path("plain.nii").read_bytes())
    struct.pack_into("<2f", data, SCALING, slope, intercept)
    Path("scaled.nii").write_bytes(data)
    by_nibabel = np.unique(nibabel.load("scaled.nii").get_fdata()).tolist()
    by_itk = np.unique(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("scaled.nii"))).tolist()
    found[slope, intercept] = by_nibabel, by_itk
    print(f"scl_slope {slope}, scl_inter {intercept}: nibabel {by_nibabel}, SimpleITK {by_itk}")
expected = {(1, -1024): ([40], [40]), (0, 0): ([1064], [1064]), (0, -1024): ([1064], [40])}
sys.exit(found != expected)
PYTHON
