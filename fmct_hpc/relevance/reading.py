"""How a kept classifier's head reads an encoder's tokens, as sums with weights that can be followed back.

Every head here computes a logit Σ_r readout_r · Σ_t a_rt (token_t - mean_r) · scale_r + bias. The rows r are
the pooled vectors of a linear head (CLS, mean and maximum of patches) or the queries of an attentive one;
a_rt are the weights of row r, which sum to 1 over the tokens t. So ∂logit/∂a_rt says how far token t speaks
for the label, beside the training volumes' mean. Of a study the sum over t is over the tokens of all series.

The logit is of a finding; of a class, beside the mean of all classes' (the softmax knows no more); of a
higher grade, which by proportional odds is the same for all grades but for a constant; or it is the value
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
from fmct_hpc.relevance.together import Together
from shards.errors import FmctError


@dataclass(frozen=True)
class Reading:
    """A head as such sums. Tensors are float32, on the encoder's device."""

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
    together: Together | None = None
    """Of a study: tokens are then of B studies of S series each, study by study, B * S in all."""

    def of_series(self, roles: tuple[str, ...]) -> "Reading":
        """For a study whose series have these roles; of a volume as it is."""
        if self.together is None:
            return self
        return replace(self, together=self.together.of(roles, self.mean.device))

    def weights(self, tokens: Tensor) -> list[Tensor]:
        """a_rt of tokens (B, T, width): (B, T, 1) a row; of a maximum, (B, T, width), channel by channel."""
        own = [self._weights(number, tokens) for number in range(len(self.rows))]
        if self.together is None or self.together.pool == "patches":
            return own
        shares = self.together.shares(torch.stack([(row * tokens).sum(dim=1) for row in own], dim=1))
        shares = shares.expand(-1, len(own), -1)
        return [row * shares[:, number, None] for number, row in enumerate(own)]

    def logits(self, tokens: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """(B,), of tokens (B, T, width) summed with `weights`; of studies, one each."""
        deviations = [
            (row * (tokens - mean)).sum(dim=1) for row, mean in zip(weights, self.mean, strict=True)
        ]
        found = (torch.stack(deviations, dim=1) * self.scale * self.readout).sum(dim=(1, 2))
        if self.together is not None:
            found = found.unflatten(0, (-1, self.together.series)).sum(dim=1)
        return found + self.bias

    def _weights(self, number: int, tokens: Tensor) -> Tensor:
        row, patches = self.rows[number], tokens[:, self.prefix :]
        found = torch.zeros_like(tokens[:, :, :1])
        if isinstance(row, Tensor):
            products = ((patches - self.mean[number]) * self.scale[number]) @ row
            joined = self.together
            own = products.softmax(dim=1) if joined is None else joined.softmax(products, row)
            return torch.cat([found[:, : self.prefix], own.unsqueeze(-1)], dim=1)
        if row == "cls":
            found[:, 0] = 1
        elif row == "mean":
            found[:, self.prefix :] = 1 / patches.shape[1]
        else:
            found = torch.zeros_like(tokens)
            found.scatter_(1, self.prefix + patches.argmax(dim=1, keepdim=True), 1.0)
        return found


def readings_of(
    record: ClassifierRecord, head: Head, kind: Kind, prefix: int, device: torch.device
) -> dict[int | None, Reading]:
    """How `head`, one of a kept classifier's, reads tokens with `prefix` before the patches.

    A reading for each class, by its number, of labels with an output a class; else one, by None. Raises
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
            "a classifier of neighbours has no map: its score counts votes of the nearest training volumes, "
            "so no gradient says why; use a classifier of another method"
        )
    else:
        raise FmctError(f"a classifier of method {record.method} has no map in this version")
    together = _together(record, head, tensor)
    return {
        number: Reading(prefix, rows, mean, scale, weight.reshape(shape), bias, together)
        for number, (weight, bias) in outputs.items()
    }


def _outputs(weight: Tensor, bias: Tensor, kind: Kind) -> dict[int | None, tuple[Tensor, Tensor]]:
    """What is followed back, of a head's weights (..., directions), of binary labels without that axis."""
    if bias.ndim == 0:
        return {None: (weight, bias)}
    if kind.directions == 1:
        return {None: (weight[..., 0], bias.mean())}
    weight, bias = weight - weight.mean(dim=-1, keepdim=True), bias - bias.mean()
    return {number: (weight[..., k], bias[k]) for k, number in enumerate(kind.classes)}


def _together(record: ClassifierRecord, head: Head, tensor: Callable[[object], Tensor]) -> Together | None:
    """How series are read together; None of a classifier of volumes, or of the best one of a study."""
    if record.of_studies is None or record.of_studies.sample != "study":
        return None
    if isinstance(head, StudyLinearHead):
        looks = tensor(head.attention).reshape(len(record.pools), -1)
        return Together("attention", looks, tensor(head.roles))
    if isinstance(head, StudyAttentiveHead):
        return Together("patches", embedding=tensor(head.roles))
    pool = record.of_studies.series_pool
    assert pool is not None
    return Together(pool)


def reading_of_cls(prefix: int, width: int, device: torch.device) -> Reading:
    """That of the CLS token itself, without any head: for methods that need no logit."""
    nothing = torch.zeros(1, width, device=device)
    return Reading(prefix, ("cls",), nothing, nothing, nothing, torch.zeros((), device=device))
