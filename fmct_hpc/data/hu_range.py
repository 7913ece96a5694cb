"""The HU range that the views of a configuration depend on, to which training copies may be clipped."""

from math import ceil, floor

from fmct_hpc.data.config import DataConfig
from shards.dataset import Dataset
from shards.errors import FmctError


def needed_hu(data: DataConfig) -> tuple[int, int]:
    """Bounds in HU to which voxels can be clipped without changing any view.

    Views clip voxels to each window before averaging (fmct_hpc.data.kernel), so values beyond the lowest and
    highest bound of all windows have no effect. The squeezed field's foreground is the voxels above 0 HU
    (fmct_hpc.data.field), so the range must include 0 and 1.
    """
    lows = [level - width / 2 for level, width in data.windows]
    highs = [level + width / 2 for level, width in data.windows]
    low, high = floor(min(lows)), ceil(max(highs))
    return (min(low, 0), max(high, 1)) if data.field == "squeezed" else (low, high)


def require_enough(dataset: Dataset, data: DataConfig) -> None:
    """Raise FmctError if a dataset was clipped to a smaller range than the views of `data` need."""
    if dataset.info.clipped_hu is None:
        return
    (low, high), (needed_low, needed_high) = dataset.info.clipped_hu, needed_hu(data)
    if low > needed_low or high < needed_high:
        raise FmctError(
            f"{dataset.path}: clipped to {low} to {high} HU, but data.windows need {needed_low} to "
            f"{needed_high}; give the dataset that it was made from, or a copy for this recipe (`fmct shards "
            "derive --for-training`)"
        )
