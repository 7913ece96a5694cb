"""Which HU the views of a configuration depend on: what copies for training may be clipped to."""

from math import ceil, floor

from fmct_hpc.data.config import DataConfig
from shards.dataset import Dataset
from shards.errors import FmctError


def needed_hu(data: DataConfig) -> tuple[int, int]:
    """Bounds in HU to which voxels can be clipped without a change in any view.

    A view clips voxels to each of its windows before it averages them (fmct_hpc.data.kernel), so that nothing
    beyond the least and greatest bound of all of them is seen. The squeezed field's foreground is what lies
    above 0 HU (fmct_hpc.data.field), so that 0 and 1 must be within.
    """
    lows = [level - width / 2 for level, width in data.windows]
    highs = [level + width / 2 for level, width in data.windows]
    low, high = floor(min(lows)), ceil(max(highs))
    return (min(low, 0), max(high, 1)) if data.field == "squeezed" else (low, high)


def require_enough(dataset: Dataset, data: DataConfig) -> None:
    """Raise FmctError where a dataset was clipped to less than the views of `data` need."""
    if dataset.info.clipped_hu is None:
        return
    (low, high), (least, greatest) = dataset.info.clipped_hu, needed_hu(data)
    if low > least or high < greatest:
        raise FmctError(
            f"{dataset.path}: clipped to {low} to {high} HU, and data.windows need {least} to {greatest}; "
            "give the dataset it was made of, or a copy for this recipe (`fmct shards derive --for-training`)"
        )
