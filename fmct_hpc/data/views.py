"""The views of a micro-batch: the loader's output and the objective's input."""

from typing import NamedTuple

import torch
from torch import Tensor


class Views(NamedTuple):
    """float32, in [0, 1] before the intensity shift; local edges are at most the global ones'."""

    whole: Tensor
    """(G, B, C, D, H, W): the global views."""
    local: Tensor | None
    """(L, B, C, d, h, w); None if data.local_views is 0."""

    def by_size(self) -> list[Tensor]:
        """All views, one tensor per size, the global ones first: one tensor, or both members."""
        if self.local is None:
            return [self.whole]
        if self.local.shape[3:] == self.whole.shape[3:]:
            return [torch.cat([self.whole, self.local])]
        return [self.whole, self.local]
