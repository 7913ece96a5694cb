#!/usr/bin/env bash
# MONAI 1.6.1, NrrdReader (with pynrrd 1.1.3), an NRRD whose `space` is written as "LPS"
#
# Expected: "LPS" and "left-posterior-superior" are two names of one space in the definition of the NRRD format (field
# `space`), as "LAS" and "left-anterior-superior" are, so that both files are placed alike, as by ITK. By its
# documentation NrrdReader converts the affine to RAS by default, "to be consistent with NibabelReader".
# Observed: only the exact string "left-posterior-superior" is converted. With "LPS" the affine is that of the file, but
# is taken for RAS: the head is turned by 180 degrees about its long axis, left is right and front is back. Both names
# of LAS give a mirror image, left for right. `Orientation("RAS")` then leaves the voxels in that order. There is no
# warning. pynrrd writes whichever name it is given. No issue of MONAI's was found about it.
#
# Exits 1 if MONAI places a file with "LPS" or LAS as SimpleITK does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" --no-deps monai==1.6.1 torch==2.13.0
"${pip[@]}" pynrrd==1.1.3 SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.4.6 filelock fsspec jinja2 networkx \
  "setuptools>=77" sympy typing_extensions
cd "$work"
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import nrrd
import numpy as np
import SimpleITK
from monai.transforms import LoadImage, Orientation

MARK, SHAPE = (1, 2, 3), (10, 12, 8)
"""One voxel of another value, and where it is in the array."""
RAS_FROM_LPS = np.array([-1, -1, 1])

print("monai", version("monai"), "pynrrd", version("pynrrd"), "SimpleITK", SimpleITK.Version_VersionString())
volume = np.zeros(SHAPE, np.int16)
volume[MARK] = 1000
right_by_monai = {}
for space in ("left-posterior-superior", "LPS", "right-anterior-superior", "RAS", "left-anterior-superior", "LAS"):
    header = {"space": space, "space directions": np.diag([2.0, 2, 5]), "space origin": [10.0, 20, 30]}
    nrrd.write("head.nrrd", volume, header)
    by_itk = RAS_FROM_LPS * SimpleITK.ReadImage("head.nrrd").TransformIndexToPhysicalPoint(MARK)
    image = LoadImage(image_only=True, ensure_channel_first=True)("head.nrrd")
    by_monai = (image.affine.numpy() @ [*MARK, 1])[:3]
    turned = np.argwhere(Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(image)[0].numpy() == 1000)[0]
    right_by_monai[space] = np.allclose(by_itk, by_monai)
    print(
        f"{space}: the mark in RAS mm by SimpleITK {by_itk.tolist()}, by MONAI {by_monai.tolist()}; "
        f"its voxel after Orientation: {turned.tolist()}"
    )
wrong = [space for space, right in right_by_monai.items() if not right]
sys.exit(wrong != ["LPS", "left-anterior-superior", "LAS"])
PYTHON
