"""Training of a head on frozen tokens; rate and step are chosen on validation volumes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fmct_hpc.dense.config import HeadName, SegmentConfig
from fmct_hpc.dense.heads import make_head
from fmct_hpc.fields import Edges
from fmct_hpc.optimizer import AdamW
from fmct_hpc.probe.batches import batches
from fmct_hpc.train.schedules import cosine

SAMPLE = 2048
"""Maximum number of training volumes for the tokens' means and deviations."""
_ORDER = 11
"""Stream of random numbers for the order of volumes."""
ONE_SHARE = 255
"""A full cell in the targets, which are uint8."""


@dataclass(frozen=True)
class Tokens:
    """Patch tokens of a dataset's volumes, standardised per channel."""

    stored: NDArray[np.floating]
    """(N, patches, width), memory-mapped."""
    mean: Tensor
    deviation: Tensor
    device: torch.device

    @classmethod
    def over(cls, stored: NDArray[np.floating], rows: NDArray[np.int64], device: torch.device) -> "Tokens":
        """Standardised by means and deviations over `rows`."""
        chosen = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
        sample = torch.from_numpy(np.asarray(stored[chosen], np.float32)).flatten(0, 1)
        deviation = sample.std(dim=0).clamp(1e-6)
        return cls(stored, sample.mean(dim=0).to(device), deviation.to(device), device)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Standardised tokens of `rows`, float32 (B, patches, width)."""
        read = torch.from_numpy(np.asarray(self.stored[rows], np.float32)).to(self.device)
        return (read - self.mean) / self.deviation


@dataclass(frozen=True)
class Fitted:
    """A trained head."""

    head: nn.Module
    tokens: Tokens
    chosen: dict[str, float]

    @torch.no_grad()
    def __call__(self, row: int) -> NDArray[np.float32]:
        """Probabilities of each class in the cells of a volume: (C, D, H, W)."""
        probabilities: NDArray[np.float32] = (
            self.head(self.tokens.read(np.array([row])))[0].sigmoid().cpu().numpy()
        )
        return probabilities


def fit(
    name: HeadName,
    tokens: Tokens,
    targets: NDArray[np.uint8],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    grid: Edges,
    config: SegmentConfig,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fitted:
    """Train the head `name` at each rate, and keep rate and step with the lowest validation loss.

    targets: (N, C, cells along D, H, W), each cell's share of a class in 255ths. train, validation: rows of
    both tokens and targets.
    """
    width = tokens.stored.shape[-1]
    prevalence = torch.from_numpy(
        np.stack([targets[row].mean(axis=(1, 2, 3)) for row in train.tolist()]).mean(axis=0) / ONE_SHARE
    )
    best: tuple[float, dict[str, Tensor], dict[str, float]] | None = None
    head = nn.Module()
    for number, rate in enumerate(config.learning_rates):
        head = make_head(name, width, grid, config.cells, config.hidden, prevalence, seed).to(tokens.device)
        optimizer = AdamW(head.parameters(), lr=rate, weight_decay=config.weight_decay)
        order = batches(len(train), min(config.batch, len(train)), config.steps, _order(seed, len(train)))
        for step, places in enumerate(order):
            rows = train[places]
            for group in optimizer.param_groups:
                group["lr"] = rate * cosine(1.0, 0.0, step / config.steps)
            optimizer.zero_grad()
            loss_of(head(tokens.read(rows)), _read(targets, rows, tokens.device)).backward()
            optimizer.step()
            progress(number * config.steps + step + 1, len(config.learning_rates) * config.steps)
            if (step + 1) % config.check_every and step + 1 < config.steps:
                continue
            loss = _validation_loss(head, tokens, targets, validation, config.batch)
            if best is None or loss < best[0]:
                weights = {key: value.detach().clone() for key, value in head.state_dict().items()}
                best = loss, weights, {"learning_rate": rate, "step": float(step + 1)}
    assert best is not None
    head.load_state_dict(best[1])
    return Fitted(head.eval(), tokens, best[2])


def loss_of(logits: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of the cells' shares, plus 1 - Dice over the batch, per class (Milletari 2016).

    Dice is not computed for classes that are absent in the batch. logits, shares: (B, C, D, H, W).
    """
    entropy = F.binary_cross_entropy_with_logits(logits, shares)
    predicted = logits.sigmoid()
    common = (predicted * shares).sum(dim=(0, 2, 3, 4))
    sizes = (predicted + shares).sum(dim=(0, 2, 3, 4))
    present = shares.sum(dim=(0, 2, 3, 4)) > 0
    if not present.any():
        return entropy
    return entropy + (1 - 2 * common[present] / sizes[present]).mean()


@torch.no_grad()
def _validation_loss(
    head: nn.Module, tokens: Tokens, targets: NDArray[np.uint8], rows: NDArray[np.int64], batch: int
) -> float:
    """Mean cross-entropy plus 1 - Dice over all validation volumes together, accumulated over batches."""
    entropy = 0.0
    sums = torch.zeros(3, targets.shape[1], dtype=torch.float64)
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        logits, shares = head(tokens.read(some)), _read(targets, some, tokens.device)
        predicted = logits.sigmoid()
        entropy += float(F.binary_cross_entropy_with_logits(logits, shares)) * len(some) / len(rows)
        parts = (predicted * shares, predicted + shares, shares)
        sums += torch.stack([part.sum(dim=(0, 2, 3, 4)).double().cpu() for part in parts])
    common, sizes, held = sums[:, sums[2] > 0]
    return entropy + 1 - (float((2 * common / sizes).mean()) if len(held) else 1.0)


def _read(targets: NDArray[np.uint8], rows: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(targets[rows].astype(np.float32) / ONE_SHARE).to(device)


def _order(seed: int, count: int) -> Callable[[int], NDArray[np.int64]]:
    def permutation(number: int) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.Philox(key=[seed, _ORDER], counter=[0, 0, 0, number]))
        return generator.permutation(count)

    return permutation
