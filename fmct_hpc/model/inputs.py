"""Standardisation of an encoder's input."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """(x - mean) / std, with constants of the configuration that are not in checkpoints."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float], channels: int) -> None:
        """One value for all `channels` windows, or one for each."""
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            each = torch.tensor(values, dtype=torch.float32).expand(channels)
            self.register_buffer(name, each.reshape(channels, 1, 1, 1).clone(), persistent=False)
        self._changes = not _all_are(mean, 0) or not _all_are(std, 1)

    def forward(self, views: Tensor) -> Tensor:
        """(..., C, D, H, W), windowed to [0, 1] -> the same shape, standardised."""
        return (views - self.mean) / self.std if self._changes else views

    def inverse(self, views: Tensor) -> Tensor:
        """Back to windowed values."""
        return views * self.std + self.mean if self._changes else views


def _all_are(values: float | Sequence[float], number: float) -> bool:
    return set(values if isinstance(values, Sequence) else [values]) == {number}
