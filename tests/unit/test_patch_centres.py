"""Patch centres are where patches read their voxels."""

import numpy as np
import pytest

from fmct_hpc.config import TrainConfig
from fmct_hpc.fields import edges
from fmct_hpc.train.export import EncoderInfo
from shards.voxels import INDEX_STEPS


@pytest.mark.parametrize("field", ["isotropic", "squeezed"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("view_size", "patch_size"), [(8, 4), ((10, 8, 5), (2, 4, 5))])
def test_patch_centres_are_at_the_voxels_that_patches_read(
    axis: int, field: str, view_size: int | tuple[int, int, int], patch_size: int | tuple[int, int, int]
) -> None:
    """In a ramp of HU the mean of a patch is the ramp at the patch's centre."""
    size, spacing = (44, 60, 52), (2.0, 1.0, 2.0)
    affine = np.eye(4)
    affine[:3, :3] = INDEX_STEPS.T * spacing
    affine[:3, 3] = (30, -20, 11)
    index = np.stack([*np.indices(size)], axis=-1)
    hu = 200 + 4 * (index @ affine[:3, :3].T + affine[:3, 3])[..., axis]
    model = {"width": 6, "depth": 1, "heads": 1, "patch_size": patch_size}
    data = {"path": "", "view_size": view_size, "windows": [(0, 2000)], "field": field, "field_mm": 40}
    crops = {"global_crop_mm": (10, 40), "local_crop_mm": (5, 10), "local_field_mm": 40}
    config = TrainConfig.model_validate({"data": data | crops, "model": model})
    info = EncoderInfo(
        step=0, model=config.model, data=config.data, spacing_mm=(2.0, 1.0, 2.0), code_version=""
    )
    view = info.view(hu.astype(np.int16), spacing)[0, 0]
    pairs = zip(edges(view_size), edges(patch_size), strict=True)
    view = view.reshape([n for size, patch in pairs for n in (size // patch, patch)])
    actual = view.mean(dim=(1, 3, 5)).flatten().numpy() * 2000 - 1000
    centres = info.patch_centres(hu.astype(np.int16), spacing, affine)
    assert (actual - 200) / 4 == pytest.approx(centres[:, axis], abs=0.3)
    # A volume at another spacing is resampled first, and its patches have the same positions.
    other = info.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)})
    if field == "isotropic":
        assert other.patch_centres(hu.astype(np.int16), spacing, affine) == pytest.approx(centres, abs=0.51)
