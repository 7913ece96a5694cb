#!/usr/bin/env bash
# nibabel 5.4.2 and SimpleITK 2.5.7, a NIfTI with a qform in the scanner's space and a sform in a template's
#
# Expected: a file that has both, with qform_code 1 (scanner) and sform_code 4 (MNI 152), as nifti1.h intends for a scan
# with its registration, is placed by all readers by the same one of the two, or the reader has to be told which.
# Observed: nibabel's `affine` is the sform whenever its code is above 0, whatever the space. SimpleITK takes the qform, except
# where sform_code is 1. So the same file is in template coordinates in one and in scanner coordinates in the other,
# and so it is with two patient spaces (codes 1 and 2, or 2 and 2). Masks that are drawn in a program that reads by ITK,
# and resampled with nibabel's affine, are displaced by the registration, without a warning.
#
# Exits 1 if both place such files in the same way, or differ where only one form is set.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import nibabel
import numpy as np
import SimpleITK

QFORM, SFORM = np.diag([2.0, 2, 2, 1]), np.diag([2.0, 2, 2, 1])
QFORM[:3, 3], SFORM[:3, 3] = (10, 0, 0), (0, 20, 0)
"""Index to RAS mm; they differ in the place of the first voxel."""


def form(origin: np.ndarray) -> str:
    return "qform" if np.allclose(origin, QFORM[:3, 3]) else "sform" if np.allclose(origin, SFORM[:3, 3]) else "neither"


print("nibabel", nibabel.__version__, "SimpleITK", SimpleITK.Version_VersionString())
found = {}
for codes in ((1, 0), (0, 1), (1, 1), (1, 2), (2, 2), (1, 4)):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), None)
    image.header.set_zooms((2, 2, 2))
    image.set_qform(QFORM, codes[0])
    image.set_sform(SFORM, codes[1])
    nibabel.save(image, "image.nii")
    by_nibabel = form(nibabel.load("image.nii").affine[:3, 3])
    by_itk = form(np.array(SimpleITK.ReadImage("image.nii").GetOrigin()) * (-1, -1, 1))  # LPS to RAS
    found[codes] = by_nibabel, by_itk
    print(f"qform_code {codes[0]}, sform_code {codes[1]}: nibabel {by_nibabel}, SimpleITK {by_itk}")
expected = {(1, 0): ("qform", "qform"), (0, 1): ("sform", "sform"), (1, 1): ("sform", "sform")}
expected |= dict.fromkeys(((1, 2), (2, 2), (1, 4)), ("sform", "qform"))
sys.exit(found != expected)
PYTHON
