"""A dataset's volumes through an encoder: batches of inputs, and the arrays kept of each batch's tokens."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.probe.encoders import Encoder
from fmct_hpc.probe.heads import pooled
from fmct_hpc.probe.store import FeatureRequest, array_name
from shards import Dataset

Arrays = dict[str, NDArray[np.generic]]


def inputs_of(
    encoder: Encoder, dataset: Dataset, rows: NDArray[np.int64], batch: int, workers: int
) -> Iterator[torch.Tensor]:
    """Yield batches of inputs, prefetched by threads, since decoding and windowing release the GIL."""

    def read(row: int) -> torch.Tensor:
        return encoder.transform(dataset.read(row), dataset.info.spacing_mm)

    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(rows.tolist())
        ahead = deque(pool.submit(read, row) for row in islice(waiting, batch + workers))
        while ahead:
            images: list[torch.Tensor] = []
            while ahead and len(images) < batch:
                images.append(ahead.popleft().result())
                ahead.extend(pool.submit(read, row) for row in islice(waiting, 1))
            yield torch.stack(images)


@torch.inference_mode()
def arrays_of(
    encoder: Encoder, request: FeatureRequest, images: torch.Tensor, device: torch.device
) -> tuple[Arrays, int]:
    """The arrays to store of one batch of inputs, and the number of patch tokens per volume.

    The encoder's module must be on `device`, in evaluation mode.
    """
    kept: Arrays = {}
    patches = 0
    outputs = encoder.tokens(images.to(device, non_blocking=True), request.layers)
    for layer, given in zip(request.layers, outputs, strict=True):
        tokens = given.float()  # (B, prefix + N, width)
        own = tokens[:, encoder.prefix :]
        patches = own.shape[1]
        if request.tokens:
            kept[array_name(layer, "tokens")] = own.half().cpu().numpy()
        for pooling in request.poolings:
            kept[array_name(layer, pooling)] = pooled(tokens, encoder.prefix, (pooling,)).cpu().numpy()
    return kept, patches
