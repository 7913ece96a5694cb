"""The loader: an endless stream of augmented micro-batches, starting at any step."""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import feed_ndarray

from fmct_hpc.data.cache import CachedDataset, open_dataset
from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.graph import Device, build_pipeline, in_place
from fmct_hpc.data.order import Order, Share
from fmct_hpc.data.prefetch import Prefetcher
from fmct_hpc.data.readers import Readers
from fmct_hpc.data.source import Sample, ViewSource
from fmct_hpc.data.views import Views
from fmct_hpc.fields import Edges
from shards.buffers import Buffers
from shards.errors import FmctError

log = logging.getLogger(__name__)

_BATCHES = 64
"""Maximum number of view tensors whose memory is kept: enough for a step with many micro-batches."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank."""

    views: Views
    indices: np.ndarray
    """int64 (B,): dataset indices of the volumes."""
    keys: list[str]
    """The volumes' keys."""
    step: int
    wait_seconds: float
    """Time for which the consumer waited for it."""
    skipped: list[str] = field(default_factory=list)
    """Keys of damaged volumes that were replaced by others (data.damaged="skip")."""


class Loader:
    """Yields `accumulate` micro-batches per step, from `start_step` on, without end.

    The content of a step depends only on the dataset, the data configuration, the seed and the step, not on
    the number of ranks or reader processes or on the step at which the run was resumed.
    """

    def __init__(
        self,
        data: DataConfig,
        seed: int,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        accumulate: int = 1,
        device: Device = "cpu",
    ):
        """Open the dataset and start the readers.

        Args:
            data: the dataset and the configuration of the views.
            seed: of order and augmentation.
            global_batch: volumes per step over all ranks.
            micro_batch: volumes per batch; global_batch / (world_size · accumulate).
            rank: of this process.
            world_size: number of ranks.
            start_step: first step to yield.
            accumulate: micro-batches per step and rank.
            device: device of the views; "gpu" is the current CUDA device.

        Raises:
            FmctError: the dataset cannot be opened, the batch cannot be divided evenly, or a reader process
                died.
        """
        self.dataset = open_dataset(data)
        order = Order.of(self.dataset, seed, global_batch)
        self._share = Share(order, rank, world_size, accumulate)
        if self._share.micro_batch != micro_batch:
            raise ValueError(
                f"micro_batch is {micro_batch}, but the rank's share is {self._share.micro_batch}"
            )
        self._data = data
        self._source = ViewSource(self.dataset, data, self._share, start_step)
        device_id = torch.cuda.current_device() if device == "gpu" else None
        self._device = torch.device("cpu" if device_id is None else f"cuda:{device_id}")
        self._in_place = in_place(data, device)
        self._placed: deque[Views] = deque()
        self._buffers = Buffers(_BATCHES)
        self._pipeline: Pipeline | None = build_pipeline(
            self._samples, data, micro_batch, device, device_id, self._places
        )
        self._readers: Readers | None = None
        if data.workers:
            self._readers = Readers(self._source, data.workers, micro_batch, data.prefetch)
        self._iteration = 0
        self._ahead = (
            Prefetcher(self.dataset, self._share, start_step)
            if isinstance(self.dataset, CachedDataset)
            else None
        )
        self._held: Sequence[Any] = ()
        self._copied: torch.cuda.Event | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Continue after the last batch that was taken.

        Raises:
            FmctError: a volume is damaged or its shard unreadable, or a reader process died.
        """
        while self._pipeline is not None:
            yield self._next(self._pipeline)

    def lost(self) -> FmctError | None:
        """The error of a reader process that has died, after which no batch follows. Thread-safe."""
        return self._readers.lost() if self._readers else None

    def close(self) -> None:
        """Stop the readers and free their shared memory; the loader then yields no more batches."""
        self._pipeline = None
        if self._readers:
            self._readers.close()
        if self._ahead:
            self._ahead.close()

    def _samples(self, iteration: int) -> list[Sample]:
        if self._readers:
            return self._readers.batch(iteration)
        return self._source.batch(iteration, range(self._share.micro_batch))

    def _places(self, _: int) -> np.ndarray:
        """Memory for the views of the next micro-batch, uint64 (B, V, 4) as `build_pipeline` takes it."""
        data, batch = self._data, self._share.micro_batch
        sizes, channels = data.view_sizes, len(data.windows)
        groups = [(data.global_views, sizes[0]), (data.local_views, sizes[-1])]
        tensors = [self._allocate((views, batch, channels, *size)) for views, size in groups if views]
        self._placed.append(Views(tensors[0], tensors[1] if tensors[1:] else None))
        by_view = [view for tensor in tensors for view in tensor]
        addresses = [
            [(view[sample].data_ptr(), *size) for view, size in zip(by_view, sizes, strict=True)]
            for sample in range(batch)
        ]
        return np.array(addresses, np.uint64)

    def _next(self, pipeline: Pipeline) -> Batch:
        began = time.perf_counter()
        *views, taken, skipped = pipeline.run()
        step, _ = self._source.when(self._iteration)
        if self._ahead:
            self._ahead.advance(step)
        self._iteration += 1
        indices = np.array([int(np.array(index)) for index in taken])
        lost = np.concatenate([np.array(numbers) for numbers in skipped])
        made = self._placed.popleft() if self._in_place else self._copy(views, len(indices))
        # One at a time: Arrow's `take` imports pandas if installed, a twelfth of the start of a rank.
        column = self.dataset.index["key"]
        keys = [column[number].as_py() for number in [*indices.tolist(), *lost.tolist()]]
        for number, key in zip(lost.tolist(), keys[len(indices) :], strict=True):
            file = self.dataset.shard_file(number)
            log.warning("step %d: %s: volume %s is damaged: skipped", step + 1, file, key)
        return Batch(
            *(made, indices, keys[: len(indices)], step),
            wait_seconds=time.perf_counter() - began,
            skipped=keys[len(indices) :],
        )

    def _copy(self, outputs: Sequence[Any], batch: int) -> Views:
        """Copies of the pipeline's views, whose memory DALI reuses."""
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        if self._copied:
            self._copied.synchronize()  # DALI may reuse the last batch's memory only after its copy
        whole, sizes = self._data.global_views, self._data.view_sizes
        views = Views(
            self._gather(outputs[:whole], batch, sizes[0], stream),
            self._gather(outputs[whole:], batch, sizes[-1], stream) if outputs[whole:] else None,
        )
        if stream:
            self._held, self._copied = outputs, stream.record_event()
        return views

    def _gather(self, outputs: Sequence[Any], batch: int, size: Edges, stream: Any) -> torch.Tensor:
        """Views of one size as one tensor, (views, B, C, D, H, W)."""
        views = self._allocate((len(outputs), batch, len(self._data.windows), *size))
        for view, output in zip(views, outputs, strict=True):
            for target, sample in zip(view, output, strict=True):
                # On PyTorch's stream: its earlier work may still use memory that its allocator has released.
                feed_ndarray(sample, target, cuda_stream=stream)
        return views

    def _allocate(self, shape: tuple[int, ...]) -> torch.Tensor:
        if self._device.type != "cpu":
            return torch.empty(shape, device=self._device)
        return torch.from_numpy(self._buffers.take(shape, np.float32))
