"""Input of the DALI graph: from a position in the order to a sample's voxels and drawn parameters."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fmct_hpc.data import field, smoothing
from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.draw import ViewParameters, draw_views
from fmct_hpc.data.kernel import AIR_HU
from fmct_hpc.data.order import Share
from shards.dataset import Dataset
from shards.errors import DamagedDataError

_SUBSTITUTES = 8
"""Maximum substitutes for a damaged volume; if all are damaged too, the dataset is."""


class Sample(NamedTuple):
    """One sample as input of the graph; every member is an array."""

    box: np.ndarray
    """int16 HU (D, H, W): the voxels of all views, read once."""
    geometry: np.ndarray
    """int32 (V, 3, 3): each view's start in the box (or the squeezed field), edge, and flip, by axis."""
    shifts: np.ndarray
    """float32 (V,)."""
    kernels: np.ndarray
    """float32 (V, 3, taps): each view's smoothing kernels; zeros: not smoothed."""
    gammas: np.ndarray
    """float32 (V,): each view's exponent of the contrast change; 0: unchanged."""
    taken: np.ndarray
    """int64 (): the dataset index of the volume."""
    skipped: np.ndarray
    """int64 (k,): dataset indices of the damaged volumes that it replaces."""


class ViewSource:
    """Makes samples; stateless, so any process can make any sample.

    Unpickled in a reader process, it opens the dataset again.
    """

    def __init__(self, dataset: Dataset, data: DataConfig, share: Share, start_step: int):
        self.dataset = dataset
        self.data = data
        self.share = share
        self.start_step = start_step

    def batch(self, iteration: int, places: Iterable[int]) -> list[Sample]:
        """The samples at `places` of micro-batch number `iteration` since the start.

        With data.damaged="skip" a damaged volume is replaced by another, a function of the position. Raises
        DamagedDataError with "stop", or if too many substitutes are damaged, and RefusedError for failures of
        the system, which are not damage and are never skipped.
        """
        positions = self.share.positions(*self.when(iteration))[list(places)]
        epochs, indices = self.share.order.at(positions)
        visits = zip(positions.tolist(), epochs.tolist(), indices.tolist(), strict=True)
        return [self._at(*visit) for visit in visits]

    def _at(self, position: int, epoch: int, index: int) -> Sample:
        """Volume `index` in `epoch`, which is at `position` of the endless order, or its substitute."""
        skipped: list[int] = []
        while True:
            try:
                return self.sample(epoch, index, skipped)
            except DamagedDataError:
                if self.data.damaged == "stop" or len(skipped) == _SUBSTITUTES:
                    raise
            skipped.append(index)
            index = self.share.order.substitute(position, len(skipped))

    def when(self, iteration: int) -> tuple[int, int]:
        """Step, and micro-batch in the step, of micro-batch number `iteration` since the start."""
        steps, accumulation = divmod(iteration, self.share.accumulate)
        return self.start_step + steps, accumulation

    def sample(self, epoch: int, index: int, skipped: Sequence[int] = ()) -> Sample:
        """Read volume `index` for `epoch`; raises as `Dataset.read` and `Dataset.read_box`."""
        drawn = self.draw(epoch, index)
        cut = self._squeezed_box if self.data.field == "squeezed" else self.isotropic_box
        box, starts = cut(index, drawn)
        geometry = [(start, view.edge, view.flip) for start, view in zip(starts, drawn, strict=True)]
        width = smoothing.radius(self.data.smooth_sigma[1])
        kernels = np.zeros((len(drawn), 3, 2 * width + 1), np.float32)
        for kernel, view in zip(kernels, drawn, strict=True):
            if view.sigma is not None:
                kernel[:] = smoothing.taps(view.sigma, width)
        return Sample(
            box,
            np.array(geometry, np.int32),
            np.array([view.shift for view in drawn], np.float32),
            kernels,
            np.array([view.gamma or 0.0 for view in drawn], np.float32),
            np.array(index),
            np.array(skipped, np.int64),
        )

    def draw(self, epoch: int, index: int) -> list[ViewParameters]:
        """Parameters of the views of volume `index` in `epoch`."""
        spacing = (1.0, 1.0, 1.0) if self.data.field == "squeezed" else self.dataset.info.spacing_mm
        return draw_views(self.data, spacing, self.share.order.seed, epoch, index)

    def isotropic_box(self, index: int, drawn: list[ViewParameters]) -> tuple[np.ndarray, list[np.ndarray]]:
        """The box that holds the voxels of all views, int16 HU, and each view's start in it."""
        shape = self.dataset.index["shape"][index].as_py()
        size = field.voxels(self.data.field_mm, self.dataset.info.spacing_mm)
        origin = np.array(field.origin(shape, size))
        starts = [origin + view.start for view in drawn]
        first = np.clip(np.min(starts, axis=0), 0, shape)
        ends = [start + view.edge for start, view in zip(starts, drawn, strict=True)]
        last = np.clip(np.max(ends, axis=0), 0, shape)
        if (last <= first).any():
            box = np.full((1, 1, 1), AIR_HU, np.int16)
        else:
            box = self.dataset.read_box(index, tuple(first.tolist()), tuple(last.tolist()))
        return np.ascontiguousarray(box), [start - first for start in starts]

    def _squeezed_box(self, index: int, drawn: list[ViewParameters]) -> tuple[np.ndarray, list[np.ndarray]]:
        """The volume's foreground, int16 HU, and each view's start in the squeezed field."""
        volume = self.dataset.read(index)
        box = np.ascontiguousarray(volume[field.foreground(volume)])
        return box, [np.array(view.start) for view in drawn]
