"""Frozen features: one vector a volume, from the whole field without augmentation."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.config import DataConfig
from fmct_hpc.data.field import center_view
from fmct_hpc.model.vit import VisionTransformer
from shards import Dataset


@torch.no_grad()
def extract(
    encoders: list[VisionTransformer],
    data: DataConfig,
    dataset: Dataset,
    rows: NDArray[np.int64],
    batch: int,
    progress: Callable[[int, int], None],
) -> list[NDArray[np.float32]]:
    """Features of the volumes at `rows` from each encoder, every volume read once: (N, 2 · width) each.

    A vector is the CLS token beside the mean of the patch tokens: self-distillation trains the first,
    masked reconstruction the second. Raises FmctError for a damaged shard.
    """
    features: list[list[NDArray[np.float32]]] = [[] for _ in encoders]
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        views = [center_view(dataset.read(int(row)), dataset.info.spacing_mm, data) for row in part]
        images = torch.from_numpy(np.stack(views))
        for encoder, found in zip(encoders, features, strict=True):
            tokens = encoder(images).float()
            first_patch = tokens.shape[1] - encoder.patches
            vectors = torch.cat([tokens[:, 0], tokens[:, first_patch:].mean(dim=1)], dim=1)
            found.append(vectors.numpy())
        progress(start + len(part), len(rows))
    return [np.concatenate(found) for found in features]
