"""The interface of networks that can be fine-tuned."""

from torch import Tensor, nn


class Tunable(nn.Module):
    """A network from views to tokens that supports layer-wise learning rates."""

    prefix: int
    """Tokens before the patches, the CLS token first; 0 if there are only patches."""
    width: int
    """Width of a token."""
    depth: int
    """Number of layers between embedding and head."""
    takes_path_scales = False
    """Whether `forward` supports `path_scales`: float32 (B, depth, 2), factors of each layer's branches."""

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 0 for the embedding, 1 to `depth`, `depth` + 1 for those at the head."""
        raise NotImplementedError

    def forward(self, views: Tensor) -> Tensor:
        """(B, C, D, H, W), whose last axis is left-right -> (B, prefix + N, width)."""
        raise NotImplementedError
