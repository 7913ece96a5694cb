"""What feeds the DALI graph: from a place in the order to a sample's cut views and drawn parameters."""

import ctypes
import os
import signal
from typing import Any, NamedTuple

import numpy as np
from nvidia.dali.types import SampleInfo

from fmct_hpc.config import DataConfig
from fmct_hpc.data import field, smoothing
from fmct_hpc.data.draw import GAMMAED, GLOBAL_VIEWS, SMOOTHED, ViewParameters, draw_views
from fmct_hpc.data.kernel import AIR_HU, cut_view
from fmct_hpc.data.order import Share
from shards.dataset import Dataset
from shards.errors import FmctError

FAILURE = "fmct reader: "
"""Starts an FmctError's text on its way through DALI, which keeps the text but not the type."""

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""


class Sample(NamedTuple):
    """One sample as the graph takes it; every member is an array."""

    views: tuple[np.ndarray, ...]
    """Float32 (C, S, S, S) in [0, 1], global views first: windowed and resized, nothing more."""
    flips: np.ndarray
    """int32 (global views, 3): 1 where the axis (D, H, W) is flipped."""
    shifts: np.ndarray
    """float32 (global views,)."""
    smooths: np.ndarray
    """bool (): whether the first global view is smoothed."""
    kernels: np.ndarray
    """float32 (3, taps): its kernels."""
    gammas: np.ndarray
    """bool (): whether the second global view gets a gamma."""
    gamma: np.ndarray
    """float32 ()."""

    def flat(self) -> tuple[np.ndarray, ...]:
        """The outputs of fn.external_source, in order."""
        return *self.views, *self[1:]


class ViewSource:
    """The callback of fn.external_source: stateless, so that any process may produce any sample.

    Pickled for a reader process, it opens the dataset there again.
    """

    def __init__(self, dataset: Dataset, data: DataConfig, share: Share, start_step: int):
        self.dataset = dataset
        self.data = data
        self.share = share
        self.start_step = start_step
        self._owner = os.getpid()

    def __call__(self, info: SampleInfo) -> tuple[np.ndarray, ...]:
        """Produce member `info.idx_in_batch` of micro-batch number `info.iteration` since the start."""
        step, accumulation = self.when(info.iteration)
        position = self.share.positions(step, accumulation)[info.idx_in_batch]
        (epoch,), (index,) = self.share.order.at(position[None])
        try:
            return self.sample(int(epoch), int(index)).flat()
        except FmctError as error:
            raise FmctError(f"{FAILURE}{error}") from error

    def when(self, iteration: int) -> tuple[int, int]:
        """Step, and micro-batch in the step, of micro-batch number `iteration` since the start."""
        steps, accumulation = divmod(iteration, self.share.accumulate)
        return self.start_step + steps, accumulation

    def sample(self, epoch: int, index: int) -> Sample:
        """Cut the views of volume `index` in `epoch`; raises FmctError where the volume is damaged."""
        data, spacing = self.data, self.dataset.info.spacing_mm
        drawn = self.draw(epoch, index)
        shape = self.dataset.index["shape"][index].as_py()
        origin = np.array(field.origin(shape, field.voxels(data.field_mm, spacing)))
        starts = [origin + view.start for view in drawn]
        box, corner = self._read(index, shape, starts, drawn)
        return Sample(
            tuple(
                cut_view(box, start - corner, view.edge, data.windows, data.view_size)
                for start, view in zip(starts, drawn, strict=True)
            ),
            *augmentation(drawn, data),
        )

    def draw(self, epoch: int, index: int) -> list[ViewParameters]:
        """Parameters of the views of volume `index` in `epoch`."""
        return draw_views(self.data, self.dataset.info.spacing_mm, self.share.order.seed, epoch, index)

    def _read(
        self, index: int, shape: list[int], starts: list[np.ndarray], drawn: list[ViewParameters]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The one box that holds all views' voxels, int16 HU, and its first voxel in the volume."""
        start = np.clip(np.min(starts, axis=0), 0, shape)
        ends = [first + view.edge for first, view in zip(starts, drawn, strict=True)]
        stop = np.clip(np.max(ends, axis=0), 0, shape)
        if (stop <= start).any():
            return np.full((1, 1, 1), AIR_HU, np.int16), start
        return self.dataset.read_box(index, tuple(start.tolist()), tuple(stop.tolist())), start

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() != self._owner:
            _become_reader()


def augmentation(drawn: list[ViewParameters], data: DataConfig) -> tuple[np.ndarray, ...]:
    """The members of Sample after its views."""
    width = smoothing.radius(data.smooth_sigma[1])
    sigma, gamma = drawn[SMOOTHED].sigma, drawn[GAMMAED].gamma
    return (
        np.array([view.flip for view in drawn[:GLOBAL_VIEWS]], np.int32),
        np.array([view.shift for view in drawn[:GLOBAL_VIEWS]], np.float32),
        np.array(sigma is not None),
        smoothing.taps(sigma or (1.0, 1.0, 1.0), width),
        np.array(gamma is not None),
        np.array(gamma or 1.0, np.float32),
    )


def _become_reader() -> None:
    """Make this process live exactly as long as its trainer.

    A scheduler signals every process of a job: the trainer decides what to do then, and must still
    get its batches; and a trainer that is killed outright leaves no reader behind.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
