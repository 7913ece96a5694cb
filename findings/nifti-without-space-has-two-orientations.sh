#!/usr/bin/env bash
# nibabel 5.4.2 and SimpleITK 2.5.7, a NIfTI whose qform_code and sform_code are 0
#
# Expected: such a file has spacing but no orientation (nifti1.h, METHOD 1: "no particular spatial orientation is
# attached"). Readers that place it nevertheless agree, or say that they guess.
# Observed: neither warns. nibabel puts the middle of the volume at the origin, the first axis towards the left and the
# second to the front; SimpleITK the first voxel at the origin and the second axis to the back. MONAI 1.6.1 reads NIfTI
# by nibabel, TorchIO 1.2.1 by SimpleITK, and they differ likewise. So a head is mirrored, front for back, between the
# two, and a voxel of a head of 200 x 240 x 150 mm is 343 mm away. A mask that is drawn and saved by SimpleITK,
# resampled to its head by nibabel, is empty. nibabel itself writes such files, for an affine of None.
#
# Exits 1 if the two place the file alike, or differ where a code is set.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6 scipy==1.17.1
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import nibabel
import numpy as np
import SimpleITK
from nibabel.processing import resample_from_to

SHAPE, ZOOMS = (200, 240, 30), (1.0, 1.0, 5.0)
EYE = (60, 220, 8)
"""A voxel near one end of the second axis."""


def by_nibabel() -> np.ndarray:
    return nibabel.load("head.nii").affine


def by_simpleitk() -> np.ndarray:
    image = SimpleITK.ReadImage("head.nii")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine  # LPS to RAS


print("nibabel", version("nibabel"), "SimpleITK", SimpleITK.Version_VersionString())
names = {by_nibabel: "nibabel", by_simpleitk: "SimpleITK"}
apart, left = {}, {}
for code in (1, 0):
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), np.diag([*ZOOMS, 1]) if code else None)
    image.header.set_zooms(ZOOMS)
    if code:
        image.set_qform(image.affine, code)
        image.set_sform(image.affine, code)
    nibabel.save(image, "head.nii")
    placed = {name: (read() @ [*EYE, 1])[:3] for read, name in names.items()}
    axes = {name: "".join(nibabel.aff2axcodes(read())) for read, name in names.items()}
    print(f"codes {code}, where voxel {EYE} is in mm towards right, front and top, and the axes:")
    for name, where in placed.items():
        print(f"  {name}: {where.round(1).tolist()} {axes[name]}")
    apart[code] = float(np.linalg.norm(placed["nibabel"] - placed["SimpleITK"]))
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(at - 5, at + 6) for at in EYE)] = 1
    drawn = SimpleITK.GetImageFromArray(mask.T)
    drawn.CopyInformation(SimpleITK.ReadImage("head.nii"))
    SimpleITK.WriteImage(drawn, "mask.nii")
    resampled = resample_from_to(nibabel.load("mask.nii"), nibabel.load("head.nii"), order=0)
    left[code] = int((resampled.get_fdata() == 1).sum())
    print(f"  of a mask of {mask.sum()} voxels, saved by SimpleITK and resampled to the head by nibabel: {left[code]}")
    if not code:
        mirrored = axes == {"nibabel": "LAS", "SimpleITK": "LPS"}
print(f"distance of this voxel between the two: {apart[1]:.0f} and {apart[0]:.0f} mm")
sys.exit(not (apart[1] < 1e-3 and apart[0] > 300 and mirrored and left == {1: mask.sum(), 0: 0}))
PYTHON
