"""What a method is asked: why these tokens, read in this way, of this view."""

from dataclasses import dataclass

from torch import Tensor

from fmct_hpc.model.backbone import Backbone
from fmct_hpc.relevance.reading import Reading


@dataclass(frozen=True)
class Question:
    """One scan, or the series of one study, and one head."""

    model: Backbone
    view: Tensor
    """(S, C, D, H, W), as the encoder takes it; S is 1 of a scan."""
    kept: Tensor | None
    """Its encoded patches, int64 (S, n), None for all."""
    layer: int
    """Whose tokens are read, from 0."""
    reading: Reading

    def tokens(self, views: Tensor) -> Tensor:
        """Of views (B * S, C, D, H, W), whose patches `kept` are encoded: (B * S, prefix + n, width)."""
        kept = None if self.kept is None else self.kept.repeat(len(views) // len(self.kept), 1)
        (found,) = self.model.at_blocks(views, [self.layer], kept)
        return found

    def logits(self, views: Tensor) -> Tensor:
        """The head's, (B,)."""
        tokens = self.tokens(views)
        return self.reading.logits(tokens, self.reading.weights(tokens))
