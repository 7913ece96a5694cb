#!/usr/bin/env bash
# nibabel 5.4.2 and SimpleITK 2.5.7, a NIfTI whose xyzt_units are metres or micrometres
#
# Expected: all readers respect the units that a NIfTI header declares (`xyzt_units`, nifti1.h), so that voxels of 2 mm are
# 2 mm whether the header has 0.002 metres or 2,000 micrometres.
# Observed: SimpleITK converts spacing and origin to millimetres. nibabel silently returns affine and zooms in the file's unit,
# and code that uses its affine interprets them as millimetres: a resampler to 1 mm sees voxels of
# 0.002 mm, or of 2 metres.
#
# Exits 1 if the two readers agree, or SimpleITK no longer converts.
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

print("nibabel", nibabel.__version__, "SimpleITK", SimpleITK.Version_VersionString())
same = True
for unit, factor in (("mm", 1.0), ("meter", 1e-3), ("micron", 1e3)):
    affine = np.diag([2 * factor, 2 * factor, 5 * factor, 1])
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, "image.nii")
    zooms = np.array(nibabel.load("image.nii").header.get_zooms(), float)
    spacing = np.array(SimpleITK.ReadImage("image.nii").GetSpacing())
    print(f"{unit}: nibabel {zooms}, SimpleITK {spacing}")
    same &= np.allclose(spacing, [2, 2, 5]) and np.allclose(zooms, np.array([2, 2, 5]) * factor)
sys.exit(not same)
PYTHON
