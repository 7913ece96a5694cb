"""What feeds the DALI graph: from a place in the order to a sample's voxels and drawn parameters."""

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
"""Volumes tried in the place of a damaged one: this many damaged ones in a row are no accident."""


class Sample(NamedTuple):
    """One sample as the graph takes it; every member is an array."""

    box: np.ndarray
    """int16 HU (D, H, W): the voxels that the views need, read once."""
    geometry: np.ndarray
    """int32 (V, 3, 3): each view's start in the box (or the squeezed field), edge, and flip, by axis."""
    shifts: np.ndarray
    """float32 (V,)."""
    kernels: np.ndarray
    """float32 (V, 3, taps): each view's kernels of smoothing; zeros: it is not smoothed."""
    gammas: np.ndarray
    """float32 (V,): each view's exponent of the contrast change; 0: none."""
    taken: np.ndarray
    """int64 (): the dataset index of the volume."""
    skipped: np.ndarray
    """int64 (k,): those of damaged volumes whose place it takes."""


class ViewSource:
    """Makes samples; stateless, so that any process may make any of them.

    Pickled for a reader process, it opens the dataset there again.
    """

    def __init__(self, dataset: Dataset, data: DataConfig, share: Share, start_step: int):
        self.dataset = dataset
        self.data = data
        self.share = share
        self.start_step = start_step

    def batch(self, iteration: int, places: Iterable[int]) -> list[Sample]:
        """The samples at `places` of micro-batch number `iteration` since the start.

        Raises FmctError where a volume is damaged, as `at` says.
        """
        positions = self.share.positions(*self.when(iteration))
        return [self.at(int(positions[place])) for place in places]

    def at(self, position: int) -> Sample:
        """The sample at a position of the endless order.

        Where its volume is damaged and data.damaged is "skip", another takes its place, drawn by the
        position alone; DamagedDataError where it is "stop", or too many of those are damaged too. What the
        system does not give is no damage and never skipped: RefusedError.
        """
        (epoch,), (index,) = self.share.order.at(np.array([position]))
        skipped: list[int] = []
        while True:
            try:
                return self.sample(int(epoch), int(index), skipped)
            except DamagedDataError:
                if self.data.damaged == "stop" or len(skipped) == _SUBSTITUTES:
                    raise
            skipped.append(int(index))
            index = self.share.order.substitute(position, len(skipped))

    def when(self, iteration: int) -> tuple[int, int]:
        """Step, and micro-batch in the step, of micro-batch number `iteration` since the start."""
        steps, accumulation = divmod(iteration, self.share.accumulate)
        return self.start_step + steps, accumulation

    def sample(self, epoch: int, index: int, skipped: Sequence[int] = ()) -> Sample:
        """Read volume `index` for `epoch`; raises as `Dataset.read` and `Dataset.read_box`."""
        drawn = self.draw(epoch, index)
        cut = self._squeezed_box if self.data.field == "squeezed" else self._box
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

    def _box(self, index: int, drawn: list[ViewParameters]) -> tuple[np.ndarray, list[np.ndarray]]:
        """The one box that holds all views' voxels, int16 HU, and where in it each view starts."""
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
        """The volume's foreground, int16 HU, and where in the squeezed field each view starts."""
        volume = self.dataset.read(index)
        box = np.ascontiguousarray(volume[field.foreground(volume)])
        return box, [np.array(view.start) for view in drawn]
