"""What the objective draws in a step: pure functions of (seed, step, sample), so of no rank and no history.

The step stands for the epoch, so that a sample is masked in another way at each visit.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.patches import visible_patches

_MAE = int.from_bytes(b"masks")
_IBOT = int.from_bytes(b"ibot")
_PATHS = int.from_bytes(b"paths")


class Masked(NamedTuple):
    """The patches of the global views that iBOT hides from the student; M of them in all."""

    where: Tensor
    """bool (G, B, N)."""
    numbers: Tensor
    """int64 (M,): places of the hidden patches in `where`, flattened."""
    weights: Tensor
    """float32 (M,): a patch's share of the loss, 1 / (G · B · hidden patches of its view)."""


class Draws(NamedTuple):
    """What is drawn for a micro-batch; None for what the configuration does not use."""

    keep: Tensor | None
    """int64 (B, n): the patches of the first view that the MAE encoder sees, ascending."""
    masked: Masked | None
    path_scales: Tensor | None
    """float32 (V, B, depth, 2): factors of the blocks' branches for the views."""
    mae_path_scales: Tensor | None
    """float32 (B, depth, 2): the same for the MAE encoder's pass."""

    def to(self, device: torch.device) -> "Draws":
        """The same on another device."""
        masked = Masked(*(t.to(device) for t in self.masked)) if self.masked else None
        keep, scales, mae_scales = (
            None if t is None else t.to(device) for t in (self.keep, self.path_scales, self.mae_path_scales)
        )
        return Draws(keep, masked, scales, mae_scales)


def draw(config: TrainConfig, step: int, samples: NDArray[np.int64]) -> Draws:
    """Draw for one micro-batch; samples: (B,), the dataset's index of each."""
    seed, objective, model = config.run.seed, config.objective, config.model
    grid = config.data.view_size // model.patch_size
    keep = masked = scales = mae_scales = None
    if objective.mae_weight:
        keep = keep_indices(seed, step, samples, grid**3, objective.mask_ratio)
    if objective.ibot_weight:
        how = objective.ibot_mask_probability, objective.ibot_mask_ratio
        masked = masked_patches(seed, step, samples, config.data.global_views, grid, *how)
    if model.drop_path:
        views = config.data.views
        drawn = path_scales(seed, step, samples, views + 1, model.depth, model.drop_path)
        scales, mae_scales = drawn[:views], drawn[views]
    return Draws(keep, masked, scales, mae_scales)


def keep_indices(seed: int, step: int, samples: NDArray[np.int64], patches: int, mask_ratio: float) -> Tensor:
    """Numbers of the patches that MAE leaves visible, ascending: int64 (B, n), n at least 1."""
    visible = visible_patches(patches, mask_ratio)
    kept = np.empty((len(samples), visible), dtype=np.int64)
    for row, sample in zip(kept, samples, strict=True):
        row[:] = np.sort(_generator(seed, _MAE, step, int(sample)).permutation(patches)[:visible])
    return torch.from_numpy(kept)


def masked_patches(
    seed: int,
    step: int,
    samples: NDArray[np.int64],
    views: int,
    grid: int,
    probability: float,
    ratio: tuple[float, float],
) -> Masked:
    """Patches of the `views` global views to hide for iBOT, in blocks (Zhou et al. 2022, section 4.1).

    With `probability` a view is masked at all, then a share of its patches drawn from `ratio`, at least one.
    """
    where = np.zeros((views, len(samples), grid**3), dtype=bool)
    for view, masks in enumerate(where):
        for mask, sample in zip(masks, samples, strict=True):
            generator = _generator(seed, _IBOT, step, int(sample), view)
            is_masked, share = generator.random() < probability, generator.uniform(*ratio)
            if is_masked:
                mask[:] = block_mask(generator, grid, max(1, round(share * grid**3))).ravel()
    hidden = where.sum(axis=-1)
    weights = 1 / (np.repeat(hidden, hidden.ravel()) if hidden.any() else np.ones(0)) / hidden.size
    return Masked(
        torch.from_numpy(where),
        torch.from_numpy(np.flatnonzero(where)),
        torch.from_numpy(weights.astype(np.float32)),
    )


def block_mask(generator: np.random.Generator, grid: int, count: int) -> NDArray[np.bool_]:
    """`count` of grid³ patches, hidden in cuboids whose edges are 2 to grid / 2: bool (grid, grid, grid).

    Cuboids may overlap; the last one is cut off where `count` is reached.
    """
    mask = np.zeros((grid, grid, grid), dtype=bool)
    least = min(2, grid)
    most = max(least, grid // 2)
    while left := count - int(mask.sum()):
        edges = generator.integers(least, most, size=3, endpoint=True)
        starts = generator.integers(0, grid - edges, endpoint=True)
        block = mask[tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))]
        new = np.argwhere(~block)[:left]
        block[tuple(new.T)] = True
    return mask


def path_scales(
    seed: int, step: int, samples: NDArray[np.int64], passes: int, depth: int, rate: float
) -> Tensor:
    """Factors of the two branches of each block: float32 (passes, B, depth, 2).

    A branch of block l of `depth` is skipped with p = rate · l / (depth - 1), and its factor is then 0, else
    1 / (1 - p), so that the expectation stays (Huang et al. 2016, "Deep Networks with Stochastic Depth").
    """
    probability = rate * np.arange(depth) / max(1, depth - 1)
    shape = (passes, depth, 2)
    uniform = [_generator(seed, _PATHS, step, int(sample)).random(shape) for sample in samples]
    kept = np.stack(uniform, axis=1) >= probability[:, None]
    return torch.from_numpy((kept / (1 - probability[:, None])).astype(np.float32))


def _generator(seed: int, stream: int, step: int, sample: int, view: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, view, sample, step]))
