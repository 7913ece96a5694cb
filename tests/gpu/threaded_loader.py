"""Views from shards without DALI: threads read boxes, and this package's kernels cut the views.

Without smoothing and gamma, which are DALI operators: one view in ten lacks one of them.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.draw import draw_views
from fmct_hpc.data.field import origin, voxels
from fmct_hpc.data.kernel import bounds, cut
from fmct_hpc.data.order import Order
from fmct_hpc.data.views import Views
from fmct_hpc.fields import Edges
from shards import Dataset

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A volume's box, its views' geometry and their shifts."""


class Cut(NamedTuple):
    """A batch, as from the package's loader."""

    views: Views
    wait_seconds: float


class ThreadedLoader:
    """The batches of a run on one device, two of them prefetched."""

    def __init__(self, config: TrainConfig, device: torch.device, workers: int) -> None:
        self.config, self.device = config, device
        self.dataset = Dataset.open(config.data.path)
        self.order = Order.of(self.dataset, config.run.seed, config.run.batch)
        self._pool = ThreadPoolExecutor(max(1, workers))

    def __iter__(self) -> Iterator[Cut]:
        waiting: deque[list[Future[Boxes]]] = deque()
        step = 0
        while True:
            while len(waiting) < 3:
                waiting.append([self._pool.submit(self._box, int(i)) for i in self.order.indices(step)])
                step += 1
            began = time.perf_counter()
            read = [future.result() for future in waiting.popleft()]
            views = self._views(read)
            yield Cut(views, time.perf_counter() - began)

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _box(self, index: int) -> Boxes:
        """The whole field's box of a volume, int16 HU, and its views' geometry and shifts."""
        data, spacing = self.config.data, self.dataset.info.spacing_mm
        drawn = draw_views(data, spacing, self.config.run.seed, 0, index)
        box = self.dataset.read(index)
        first = np.array(origin(box.shape, voxels(data.field_mm, spacing)))
        where = np.array([(first + view.start, view.edge, view.flip) for view in drawn], np.int32)
        return box, where, np.array([view.shift for view in drawn], np.float32)

    def _views(self, read: list[Boxes]) -> Views:
        limits, sizes = bounds(self.config.data.windows), self.config.data.view_sizes
        if self.device.type == "cpu":
            samples = [_cut_here(*one, limits, sizes) for one in read]
            by_view = [torch.stack(views) for views in zip(*samples, strict=True)]
        else:
            from fmct_hpc.data.cut_gpu import cut_on_gpu

            boxes, geometry, shifts = (
                [torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays]
                for arrays in zip(*read, strict=True)
            )
            window = torch.from_numpy(limits).to(self.device)
            cuts = cut_on_gpu(boxes, geometry, shifts, [window] * len(boxes), sizes)
            by_view = [torch.stack(view) for view in cuts]
        count = self.config.data.global_views
        return Views(torch.stack(by_view[:count]), torch.stack(by_view[count:]) if by_view[count:] else None)


def _cut_here(
    box: np.ndarray,
    where: np.ndarray,
    shifts: np.ndarray,
    limits: np.ndarray,
    sizes: tuple[Edges, ...],
) -> list[Tensor]:
    """A volume's views by the CPU's kernel."""
    made = [np.empty((len(limits), *size), np.float32) for size in sizes]
    for view, volume in enumerate(made):
        cut(box, where[view], shifts[view], limits, volume)
    return [torch.from_numpy(volume) for volume in made]
