"""What fine-tuning needs to know of a network."""

from torch import Tensor, nn


class Tunable(nn.Module):
    """A network from views to tokens, whose layers can have learning rates of their own."""

    prefix: int
    """Tokens before the patches, the CLS token first; 0 where there are patches alone."""
    width: int
    """Of a token."""
    depth: int
    """Layers between the embedding and the head."""
    takes_path_scales = False
    """Whether `forward` takes `path_scales`: float32 (B, depth, 2), factors of the branches of each layer."""

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 0 the embedding's, 1 to `depth`, and `depth` + 1 next to the head."""
        raise NotImplementedError

    def forward(self, views: Tensor) -> Tensor:
        """(B, C, D, H, W), the last axis from one side of the head to the other -> (B, prefix + N, width)."""
        raise NotImplementedError
