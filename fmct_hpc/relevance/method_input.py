"""Input of a method: a view, the tokens of a layer, and how a head reads them."""

from dataclasses import dataclass

from torch import Tensor

from fmct_hpc.model.backbone import Backbone
from fmct_hpc.relevance.reading import Reading


@dataclass(frozen=True)
class MethodInput:
    """One scan, or the series of one study, and one head."""

    model: Backbone
    view: Tensor
    """The encoder's input (S, C, D, H, W); S is 1 for a scan."""
    kept: Tensor | None
    """The encoded patches, int64 (S, n); None for all."""
    layer: int
    """The layer whose tokens are read, from 0."""
    reading: Reading

    def tokens(self, views: Tensor) -> Tensor:
        """Tokens of views (B * S, C, D, H, W), encoding the patches `kept`: (B * S, prefix + n, width)."""
        kept = None if self.kept is None else self.kept.repeat(len(views) // len(self.kept), 1)
        (encoded,) = self.model.at_blocks(views, [self.layer], kept)
        return encoded

    def logits(self, views: Tensor) -> Tensor:
        """The head's logits, (B,)."""
        tokens = self.tokens(views)
        return self.reading.logits(tokens, self.reading.weights(tokens))
