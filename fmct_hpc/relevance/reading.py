"""An exported classifier's head as weighted sums of an encoder's tokens, differentiable in the weights.

Every head here computes a logit Σ_r readout_r · Σ_t a_rt (token_t - mean_r) · scale_r + bias. The rows r are
the pooled vectors of a linear head (CLS, mean and maximum of patches) or the queries of an attentive one;
a_rt are the weights of row r, which sum to 1 over the tokens t. Hence ∂logit/∂a_rt is the evidence of token t
for the label, relative to the training volumes' mean. For a study, t runs over the tokens of all series.

The logit is that of a finding; of a class, minus the mean over all classes (which cancels in the softmax); of
a higher grade, which with proportional odds is the same for all grades up to a constant; or it is the value
itself, in its unit, or the logarithm of the relative hazard.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fmct_hpc.classifier.record import ClassifierRecord
from fmct_hpc.probe.attentive import AttentiveHead, StudyAttentiveHead
from fmct_hpc.probe.heads import Head, LinearHead
from fmct_hpc.probe.kinds import Kind
from fmct_hpc.probe.neighbours import VotesHead
from fmct_hpc.probe.series_attention import StudyLinearHead
from fmct_hpc.relevance.series_combination import SeriesCombination
from shards.errors import FmctError


@dataclass(frozen=True)
class Reading:
    """A head as weighted sums. Tensors are float32, on the encoder's device."""

    prefix: int
    """Tokens before the patches."""
    rows: Sequence[str | Tensor]
    """Each "cls", "mean", "max", or a query (width,) on standardised tokens."""
    mean: Tensor
    scale: Tensor
    readout: Tensor
    """(rows, width) each."""
    bias: Tensor
    """()"""
    together: SeriesCombination | None = None
    """For studies: tokens are of B studies with S series each, grouped by study, B * S in total."""

    def of_series(self, roles: tuple[str, ...]) -> "Reading":
        """The reading for a study whose series have these roles; unchanged for a volume."""
        if self.together is None:
            return self
        return replace(self, together=self.together.of(roles, self.mean.device))

    def weights(self, tokens: Tensor) -> list[Tensor]:
        """a_rt of tokens (B, T, width): (B, T, 1) per row; (B, T, width), per channel, for a maximum."""
        own = [self._weights(number, tokens) for number in range(len(self.rows))]
        if self.together is None or self.together.pool == "patches":
            return own
        shares = self.together.shares(torch.stack([(row * tokens).sum(dim=1) for row in own], dim=1))
        shares = shares.expand(-1, len(own), -1)
        return [row * shares[:, number, None] for number, row in enumerate(own)]

    def logits(self, tokens: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Logits (B,) of tokens (B, T, width) summed with `weights`; one per study for studies."""
        deviations = [
            (row * (tokens - mean)).sum(dim=1) for row, mean in zip(weights, self.mean, strict=True)
        ]
        logits_ = (torch.stack(deviations, dim=1) * self.scale * self.readout).sum(dim=(1, 2))
        if self.together is not None:
            logits_ = logits_.unflatten(0, (-1, self.together.series)).sum(dim=1)
        return logits_ + self.bias

    def _weights(self, number: int, tokens: Tensor) -> Tensor:
        row, patches = self.rows[number], tokens[:, self.prefix :]
        weights = torch.zeros_like(tokens[:, :, :1])
        if isinstance(row, Tensor):
            products = ((patches - self.mean[number]) * self.scale[number]) @ row
            joined = self.together
            own = products.softmax(dim=1) if joined is None else joined.softmax(products, row)
            return torch.cat([weights[:, : self.prefix], own.unsqueeze(-1)], dim=1)
        if row == "cls":
            weights[:, 0] = 1
        elif row == "mean":
            weights[:, self.prefix :] = 1 / patches.shape[1]
        else:
            weights = torch.zeros_like(tokens)
            weights.scatter_(1, self.prefix + patches.argmax(dim=1, keepdim=True), 1.0)
        return weights


def readings_of(
    record: ClassifierRecord, head: Head, kind: Kind, prefix: int, device: torch.device
) -> dict[int | None, Reading]:
    """The readings of `head`, of an exported classifier, for tokens with `prefix` tokens before the patches.

    By class number for labels with one output per class; else a single one with the key None. Raises
    FmctError for a classifier of neighbours.
    """

    def tensor(array: object) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=device)

    if isinstance(head, LinearHead):
        rows: Sequence[str | Tensor] = record.pools
        shape = (len(record.pools), -1)
        mean, scale = (tensor(part).reshape(shape) for part in (head.mean, head.scale))
        outputs = _outputs(tensor(head.weight), tensor(head.bias), kind)
    elif isinstance(head, AttentiveHead):
        rows = list(tensor(head.queries))
        shape = tuple(head.queries.shape)
        mean, deviation = (tensor(part).expand(shape) for part in (head.mean, head.deviation))
        scale, outputs = 1 / deviation, _outputs(tensor(head.readout), tensor(head.bias), kind)
    elif isinstance(head, VotesHead):
        raise FmctError(
            "a classifier of neighbours has no map, since its score has no gradient; use a classifier of "
            "another method"
        )
    else:
        raise FmctError(f"a classifier of method {record.method} has no map in this version")
    together = _together(record, head, tensor)
    return {
        number: Reading(prefix, rows, mean, scale, weight.reshape(shape), bias, together)
        for number, (weight, bias) in outputs.items()
    }


def _outputs(weight: Tensor, bias: Tensor, kind: Kind) -> dict[int | None, tuple[Tensor, Tensor]]:
    """Weights and bias of each logit, from a head's weights (..., directions); no last axis if binary."""
    if bias.ndim == 0:
        return {None: (weight, bias)}
    if kind.directions == 1:
        return {None: (weight[..., 0], bias.mean())}
    weight, bias = weight - weight.mean(dim=-1, keepdim=True), bias - bias.mean()
    return {number: (weight[..., k], bias[k]) for k, number in enumerate(kind.classes)}


def _together(
    record: ClassifierRecord, head: Head, tensor: Callable[[object], Tensor]
) -> SeriesCombination | None:
    """How series are combined; None for a classifier of volumes, or of the best volume of a study."""
    if record.of_studies is None or record.of_studies.sample != "study":
        return None
    if isinstance(head, StudyLinearHead):
        attention = tensor(head.attention).reshape(len(record.pools), -1)
        return SeriesCombination("attention", attention, tensor(head.roles))
    if isinstance(head, StudyAttentiveHead):
        return SeriesCombination("patches", embedding=tensor(head.roles))
    pool = record.of_studies.series_pool
    assert pool is not None
    return SeriesCombination(pool)


def reading_of_cls(prefix: int, width: int, device: torch.device) -> Reading:
    """The reading of the CLS token without a head, for methods that require no logit."""
    nothing = torch.zeros(1, width, device=device)
    return Reading(prefix, ("cls",), nothing, nothing, nothing, torch.zeros((), device=device))
