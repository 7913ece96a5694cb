"""How a kept classifier's head reads an encoder's tokens, as sums with weights that can be followed back.

Every head here computes a logit Σ_r readout_r · Σ_t a_rt (token_t - mean_r) · scale_r + bias. The rows r are
the pooled vectors of a linear head (CLS, mean and maximum of patches) or the queries of an attentive one;
a_rt are the weights of row r, which sum to 1 over the tokens t. So ∂logit/∂a_rt says how far token t speaks
for the label, beside the training volumes' mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fmct_hpc.classifier.record import ClassifierRecord
from fmct_hpc.probe.attentive import AttentiveHead
from fmct_hpc.probe.heads import Head, LinearHead
from fmct_hpc.probe.neighbours import VotesHead
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

    def weights(self, tokens: Tensor) -> list[Tensor]:
        """a_rt of tokens (B, T, width): (B, T, 1) a row; of a maximum, (B, T, width), channel by channel."""
        return [self._weights(number, tokens) for number in range(len(self.rows))]

    def logits(self, tokens: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """(B,), of tokens (B, T, width) summed with `weights`."""
        deviations = [
            (row * (tokens - mean)).sum(dim=1) for row, mean in zip(weights, self.mean, strict=True)
        ]
        return (torch.stack(deviations, dim=1) * self.scale * self.readout).sum(dim=(1, 2)) + self.bias

    def _weights(self, number: int, tokens: Tensor) -> Tensor:
        row, patches = self.rows[number], tokens[:, self.prefix :]
        found = torch.zeros_like(tokens[:, :, :1])
        if isinstance(row, Tensor):
            products = ((patches - self.mean[number]) * self.scale[number]) @ row
            return torch.cat([found[:, : self.prefix], products.softmax(dim=1).unsqueeze(-1)], dim=1)
        if row == "cls":
            found[:, 0] = 1
        elif row == "mean":
            found[:, self.prefix :] = 1 / patches.shape[1]
        else:
            found = torch.zeros_like(tokens)
            found.scatter_(1, self.prefix + patches.argmax(dim=1, keepdim=True), 1.0)
        return found


def reading_of(record: ClassifierRecord, head: Head, prefix: int, device: torch.device) -> Reading:
    """How `head`, one of a kept classifier's, reads tokens with `prefix` before the patches.

    Raises FmctError for a classifier of neighbours, and for one of whole studies.
    """

    def tensor(array: object) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=device)

    if record.of_studies is not None and record.of_studies.sample == "study":
        raise FmctError(
            "a classifier of whole studies has no map, which is of one scan; use one of samples=[volume] or "
            "samples=[best]"
        )
    if isinstance(head, LinearHead):
        rows, shape = record.pools, (len(record.pools), -1)
        mean, scale, weight = (tensor(part).reshape(shape) for part in (head.mean, head.scale, head.weight))
        return Reading(prefix, rows, mean, scale, weight, tensor(head.bias))
    if isinstance(head, AttentiveHead):
        readout = tensor(head.readout)
        mean, deviation = (tensor(part).expand_as(readout) for part in (head.mean, head.deviation))
        return Reading(prefix, list(tensor(head.queries)), mean, 1 / deviation, readout, tensor(head.bias))
    if isinstance(head, VotesHead):
        raise FmctError(
            "a classifier of neighbours has no map: its score counts votes of the nearest training volumes, "
            "so no gradient says why; use a classifier of another method"
        )
    raise FmctError(f"a classifier of method {record.method} has no map in this version")


def reading_of_cls(prefix: int, width: int, device: torch.device) -> Reading:
    """That of the CLS token itself, without any head: for methods that need no logit."""
    nothing = torch.zeros(1, width, device=device)
    return Reading(prefix, ("cls",), nothing, nothing, nothing, torch.zeros((), device=device))
