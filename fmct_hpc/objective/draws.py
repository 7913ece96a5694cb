"""What the objective draws in a step: pure functions of (seed, step, sample), so of no rank and no history.

The step stands for the epoch, so that a sample is masked in another way at each visit.
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
    """What is drawn for a micro-batch."""

    parts: dict[str, Any]
    """Of the parts that draw something, by their names: NamedTuples of tensors, some perhaps None."""
    path_scales: Tensor | None
    """float32 (V, B, depth, 2): factors of the blocks' branches for the views; None without drop path."""
    rope_boxes: Tensor | None
    """float32 (depth, 2, 3): what the student's blocks make of rotary coordinates; None: nothing."""

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

    A branch of block l of `depth` is skipped with p = rate · l / (depth - 1), and its factor is then 0, else
    1 / (1 - p), so that the expectation stays (Huang et al. 2016, "Deep Networks with Stochastic Depth").
    """
    import torch

    probability = rate * np.arange(depth) / max(1, depth - 1)
    shape = (passes, depth, 2)
    uniform = [generator(seed, _PATHS, step, int(sample)).random(shape) for sample in samples]
    kept = np.stack(uniform, axis=1) >= probability[:, None]
    return torch.from_numpy((kept / (1 - probability[:, None])).astype(np.float32))


def rope_boxes(config: TrainConfig, step: int) -> Tensor | None:
    """What rotary coordinates become in a training step: c · factor + offset, float32 (depth, 2, 3).

    (c + shift) · stretch · rescale as in DINOv3's `RopePositionEmbedding`, which shifts and stretches each
    axis and rescales all three, draws for each block anew, and only in the student: its teachers are in
    evaluation mode. There each GPU and size of view has its own draw; here all ranks and passes share it.
    None where model.rope_jitter changes nothing.
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
    """Where numbers of one kind, `stream`, come from for a sample or for one of its views."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, view, sample, step]))
