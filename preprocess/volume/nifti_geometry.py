"""The position of a NIfTI file: sform, qform and pixdim must not contradict one another.

NIfTI-1 (nifti1.h, "3D image (volume) orientation and location in space"): with qform_code > 0, a quaternion,
an offset and pixdim place the volume; with sform_code > 0, a separate affine does; pixdim holds the voxel
edges in either case. Both map to RAS mm; codes 3 and 4 mean the space of a template.
"""

from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from preprocess.reasons import Reason, Rejection

SAME_EDGE = 0.01
"""Relative tolerance of two values for the same voxel edge: headers round to three digits."""
SAME_PLACE_MM = 1.0
"""Tolerance of two positions of the same corner of the volume: less than a voxel of the grid."""
ORTHOGONAL = 1e-2
"""Cosine below which two axes are perpendicular; a quaternion cannot represent others (gantry tilt)."""
_OF_THE_PATIENT = (1, 2)
"""Codes for scanner coordinates, and for those of another scan of the patient."""
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_REMEDY = "convert it again from its source"
_UNITS = {0: "", 1: "metres", 2: "", 3: "micrometres"}
"""Names of spatial units other than mm, by the lower three bits of xyzt_units; 0 is unknown."""


def affine_of(header: Any) -> np.ndarray:
    """float64 (4, 4): the index (i, j, k, 1) to patient LPS mm, by the sform if there is one, else the qform.

    Raises Rejection: missing_geometry if neither is in the patient's space, invalid_geometry for units other
    than mm, voxels without extent and an invalid quaternion, inconsistent_geometry for contradictions.
    """
    code = int(header["xyzt_units"]) % 8
    units = _UNITS.get(code, f"of the undefined code {code}")
    if units:
        raise Rejection(Reason.INVALID_GEOMETRY, f"xyzt_units: its units are {units}, not mm; {_REMEDY}")
    codes = {name: int(header[f"{name}_code"]) for name in ("qform", "sform")}
    if not any(codes.values()):
        raise Rejection(
            Reason.MISSING_GEOMETRY,
            "qform and sform codes are 0, so its orientation in the patient is unknown; convert it again",
        )
    if not any(code in _OF_THE_PATIENT for code in codes.values()):
        problem = f"qform_code {codes['qform']}, sform_code {codes['sform']}: a template's space"
        raise Rejection(
            Reason.MISSING_GEOMETRY, f"{problem}, not the patient's; give the scan as it was acquired"
        )
    pixdim = header["pixdim"]
    pixdim[0] = pixdim[0] or 1  # nifti1.h, method 2: 0 counts as 1
    edges = np.abs(np.asarray(pixdim[1:4], np.float64))
    forms = {name: _form(header, name) for name, code in codes.items() if code in _OF_THE_PATIENT}
    for name, form in forms.items():
        if not np.isfinite(form).all() or min(np.linalg.norm(form[:3, :3], axis=0)) < 1e-6:
            raise Rejection(Reason.INVALID_GEOMETRY, f"{name}: an axis without extent; {_REMEDY}")
        _require_edges(name, form, edges)
    if len(forms) == 2:
        _require_same(forms["qform"], forms["sform"], header.get_data_shape())
    return _LPS_FROM_RAS @ forms.get("sform", forms.get("qform"))


def _form(header: Any, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(header.get_sform() if name == "sform" else header.get_qform(), np.float64)
    except HeaderDataError:  # programs take a qform's negative edge as its size, as 1 mm, or as a mirror
        problem = "its first number is not 1, 0 or -1, or a voxel edge is negative"
        raise Rejection(Reason.INVALID_GEOMETRY, f"pixdim: {problem}; {_REMEDY}") from None
    except (ValueError, ArithmeticError):
        raise Rejection(Reason.INVALID_GEOMETRY, f"{name}: not a rotation; {_REMEDY}") from None


def _require_edges(name: str, form: NDArray[np.float64], edges: NDArray[np.float64]) -> None:
    """For a tilted stack, the third edge may be the slice spacing or the slice offset: both are accepted."""
    axes = form[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    normal = np.cross(axes[:, 0], axes[:, 1])
    apart = abs(axes[:, 2] @ normal) / max(float(np.linalg.norm(normal)), 1e-12)
    for index, stated in enumerate(edges):
        accepted = (lengths[index], apart) if index == 2 else (lengths[index],)
        if not any(abs(stated - length) <= SAME_EDGE * length for length in accepted):
            detail = f"pixdim[{index + 1}] is {stated:g} mm, but {lengths[index]:g} mm by the {name}"
            raise Rejection(Reason.INCONSISTENT_GEOMETRY, f"{detail}; {_REMEDY}")


def _require_same(qform: np.ndarray, sform: np.ndarray, shape: tuple[int, ...]) -> None:
    """Both must agree on the volume's corners; for a sheared stack (sform only), on a slice's corners."""
    axes = sform[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0)
    sheared = max(abs(axes[:, 2] @ axes[:, 0]), abs(axes[:, 2] @ axes[:, 1])) > ORTHOGONAL
    size = [*shape, 1, 1, 1][:3]
    ends = [(0, n - 1) for n in size]
    if sheared:
        ends[2] = (0,)  # type: ignore[assignment]
    corners = np.array([(i, j, k, 1) for i in ends[0] for j in ends[1] for k in ends[2]], np.float64)
    apart = float(np.linalg.norm(corners @ (qform - sform).T, axis=1).max())
    if apart > SAME_PLACE_MM:
        raise Rejection(
            Reason.INCONSISTENT_GEOMETRY, f"qform and sform are up to {apart:.1f} mm apart; {_REMEDY}"
        )
