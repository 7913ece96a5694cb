"""Which patches the MAE encoder sees: a pure function of (seed, step, sample)."""

import numpy as np
import torch
from torch import Tensor

_STREAM = int.from_bytes(b"masks")


def keep_indices(seed: int, step: int, samples: np.ndarray, patches: int, mask_ratio: float) -> Tensor:
    """Numbers of the visible patches, ascending: int64 (B, n).

    samples: (B,), the dataset's index of each sample; the step stands for the epoch, so that a sample
    has another mask at each visit. n is at least 1 and the same for all.
    """
    visible = max(1, round(patches * (1 - mask_ratio)))
    kept = np.empty((len(samples), visible), dtype=np.int64)
    for row, sample in zip(kept, samples, strict=True):
        philox = np.random.Philox(key=[seed, _STREAM], counter=[0, 0, int(sample), step])
        row[:] = np.sort(np.random.Generator(philox).permutation(patches)[:visible])
    return torch.from_numpy(kept)
