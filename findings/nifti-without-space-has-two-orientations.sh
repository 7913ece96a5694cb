#!/usr/bin/env bash
# nibabel 5.4.2, MONAI 1.6.1, SimpleITK 2.5.7 and TorchIO 1.2.1, a NIfTI whose qform_code and sform_code are 0
#
# Expected: such a file has spacing but no orientation (nifti1.h, METHOD 1: "no particular spatial orientation is
# attached"). Readers that place it nevertheless agree, or say that they guess.
# Observed: none warns. nibabel, and MONAI, which uses it, put the middle of the volume at the origin, the first axis
# towards the left and the second to the front. SimpleITK, and TorchIO, which uses it, put the first voxel at the origin
# and the second axis to the back. So a head is mirrored, front for back, between the two, and a voxel of a head of 200
# x 240 x 150 mm is 343 mm away. A mask that is drawn and saved by SimpleITK, resampled to its head by nibabel, is
# empty. nibabel itself writes such files, for an affine of None.
#
# Exits 1 if the two place the file alike, or differ where a code is set.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" --no-deps monai==1.6.1 torchio==1.2.1 torch==2.13.0
"${pip[@]}" nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6 scipy==1.17.1 jaxtyping humanize einops deprecated packaging \
  rich tqdm typer filelock fsspec jinja2 networkx "setuptools>=77" sympy typing_extensions
cd "$work"
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import nibabel
import numpy as np
import SimpleITK
import torchio
from monai.transforms import LoadImage
from nibabel.processing import resample_from_to

SHAPE, ZOOMS = (200, 240, 30), (1.0, 1.0, 5.0)
EYE = (60, 220, 8)
"""A voxel of another value, near one end of the second axis."""


def by_nibabel() -> np.ndarray:
    return nibabel.load("head.nii").affine


def by_monai() -> np.ndarray:
    return LoadImage(image_only=True)("head.nii").affine.numpy()


def by_simpleitk() -> np.ndarray:
    image = SimpleITK.ReadImage("head.nii")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine  # LPS to RAS


def by_torchio() -> np.ndarray:
    return torchio.ScalarImage("head.nii").affine


print(*(f"{name} {version(name)}" for name in ("nibabel", "monai", "simpleitk", "torchio")))
names = {by_nibabel: "nibabel", by_monai: "MONAI", by_simpleitk: "SimpleITK", by_torchio: "TorchIO"}
same, left = {}, {}
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
    same[code] = {other: np.allclose(where, placed["nibabel"]) for other, where in placed.items()}
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(at - 5, at + 6) for at in EYE)] = 1
    drawn = SimpleITK.GetImageFromArray(mask.T)
    drawn.CopyInformation(SimpleITK.ReadImage("head.nii"))
    SimpleITK.WriteImage(drawn, "mask.nii")
    resampled = resample_from_to(nibabel.load("mask.nii"), nibabel.load("head.nii"), order=0)
    left[code] = int((resampled.get_fdata() == 1).sum())
    print(f"  of a mask of {mask.sum()} voxels, saved by SimpleITK and resampled to the head by nibabel: {left[code]}")
    if not code:
        mirrored = axes == {"nibabel": "LAS", "MONAI": "LAS", "SimpleITK": "LPS", "TorchIO": "LPS"}
apart = same[0] == {"nibabel": True, "MONAI": True, "SimpleITK": False, "TorchIO": False}
sys.exit(not (all(same[1].values()) and apart and mirrored and left == {1: mask.sum(), 0: 0}))
PYTHON
