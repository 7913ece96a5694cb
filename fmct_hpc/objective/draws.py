"""Random draws of the objective: pure functions of (seed, step, sample), independent of rank and history.

They depend on the step rather than the epoch, so that a sample is masked differently at each visit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from fmct_hpc.config import TrainConfig

_PATHS = int.from_bytes(b"paths")
_BOXES = int.from_bytes(b"boxes")


class Draws(NamedTuple):
    """The draws for a micro-batch."""

    parts: dict[str, Any]
    """Draws of parts by name: NamedTuples of tensors, some of which may be None."""
    path_scales: Tensor | None
    """float32 (V, B, depth, 2): factors of the blocks' branches for the views; None without drop path."""
    rope_boxes: Tensor | None
    """float32 (depth, 2, 3): factors and offsets of rotary coordinates in the student's blocks; None: 1,
    0."""

    def to(self, device: torch.device) -> Draws:
        """The same on another device."""
        parts = {
            name: type(drawn)(*(None if tensor is None else tensor.to(device) for tensor in drawn))
            for name, drawn in self.parts.items()
        }
        shared = (self.path_scales, self.rope_boxes)
        return Draws(parts, *(None if tensor is None else tensor.to(device) for tensor in shared))


def draw(config: TrainConfig, step: int, samples: NDArray[np.int64]) -> Draws:
    """Draw for one micro-batch; samples: (B,), the dataset's index of each."""
    drawn = {part.name: part.draw(step, samples) for part in config.parts}
    scales, model = None, config.model
    if model.drop_path:
        views = config.data.views
        scales = path_scales(config.run.seed, step, samples, views, model.depth, model.drop_path)
    parts = {name: tensors for name, tensors in drawn.items() if tensors is not None}
    return Draws(parts, scales, rope_boxes(config, step))


def path_scales(
    seed: int, step: int, samples: NDArray[np.int64], passes: int, depth: int, rate: float
) -> Tensor:
    """Factors of the two branches of each block: float32 (passes, B, depth, 2).

    A branch of block l of `depth` is skipped with p = rate · l / (depth - 1): its factor is 0, otherwise
    1 / (1 - p), which preserves the expectation (Huang et al. 2016, "Deep Networks with Stochastic Depth").
    """
    import torch

    probability = rate * np.arange(depth) / max(1, depth - 1)
    shape = (passes, depth, 2)
    uniform = [generator(seed, _PATHS, step, int(sample)).random(shape) for sample in samples]
    kept = np.stack(uniform, axis=1) >= probability[:, None]
    return torch.from_numpy((kept / (1 - probability[:, None])).astype(np.float32))


def rope_boxes(config: TrainConfig, step: int) -> Tensor | None:
    """Factors and offsets of rotary coordinates c in a training step, c · factor + offset: (depth, 2, 3).

    float32. (c + shift) · stretch · rescale as in DINOv3's `RopePositionEmbedding`, which shifts and
    stretches each axis and rescales all axes, with separate draws for each block, in the student only:
    teachers are in evaluation mode. In DINOv3 each GPU and view size has its own draw; here all ranks and
    passes share it. None where model.rope_jitter has no effect.
    """
    import torch

    jitter, depth = config.model.rope_jitter, config.model.depth
    if not jitter.changes:
        return None
    drawn = generator(config.run.seed, _BOXES, step, 0)
    shift = jitter.shift * drawn.uniform(-1, 1, (depth, 3))
    stretch = jitter.stretch ** drawn.uniform(-1, 1, (depth, 3))
    factor = stretch * jitter.rescale ** drawn.uniform(-1, 1, (depth, 1))
    return torch.from_numpy(np.stack([factor, shift * factor], axis=1).astype(np.float32))


def generator(seed: int, stream: int, step: int, sample: int, view: int = 0) -> np.random.Generator:
    """The random generator of kind `stream` for a sample or one of its views."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, view, sample, step]))
