"""A classifier with learned queries that attend to patch tokens, for findings that fill few patches.

Each query weighs the patches by a softmax of its product with their tokens; a linear classifier reads the
weighted means of all queries. Without projections of keys and values (Psomas et al. 2025, "Attention,
Please!") it costs a hundredth of an attention layer, and since the classifier is linear, projected values
would add nothing to what it can compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.config import AttentiveConfig
from fmct_hpc.probe.heads import Head
from fmct_hpc.probe.problem import Fitted, Problem, log_loss
from fmct_hpc.train.schedules import cosine

_ORDER = int.from_bytes(b"order")
_START = int.from_bytes(b"start")
SAMPLE = 64
"""Volumes of which channel means and deviations are taken: their patches are tens of thousands of tokens."""


@dataclass(frozen=True)
class AttentiveHead(Head):
    """Queries and the linear classifier of what they gather."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    """(width,) each, of the patch tokens."""
    queries: NDArray[np.float32]
    readout: NDArray[np.float32]
    """(queries, width) each."""
    bias: NDArray[np.float32]
    """()"""

    def scores(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Of patch tokens (B, patches, width), as a feature store keeps them."""
        head = [torch.from_numpy(np.asarray(part)) for part in (self.queries, self.readout, self.bias)]
        tokens = torch.from_numpy((inputs.astype(np.float32) - self.mean) / self.deviation)
        return torch.sigmoid(_logits(tokens, head).double()).numpy()


def attentive(
    tokens: NDArray[np.floating[Any]], problems: Sequence[Problem], config: AttentiveConfig
) -> list[Fitted]:
    """Train every problem at every rate; keep rate and step of least `log_loss` on validation.

    tokens: (N, patches, width), of which a batch at a time is read.
    """
    return [_train(tokens, problem, config) for problem in problems]


class _Scale:
    """Channel means and deviations over the patches of some training volumes."""

    def __init__(self, tokens: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> None:
        chosen = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
        sample = torch.from_numpy(np.asarray(tokens[chosen], dtype=np.float32)).flatten(0, 1)
        self._tokens, self.mean, self.deviation = tokens, sample.mean(dim=0), sample.std(dim=0).clamp(1e-6)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Standardised tokens of some volumes: float32 (B, patches, width)."""
        read = torch.from_numpy(np.asarray(self._tokens[rows], dtype=np.float32))
        return (read - self.mean) / self.deviation


def _train(tokens: NDArray[np.floating[Any]], problem: Problem, config: AttentiveConfig) -> Fitted:
    scale = _Scale(tokens, problem.unlabelled)
    labels = torch.from_numpy(problem.labels.astype(np.float32))
    rates, width = config.learning_rates, tokens.shape[-1]
    # Queries begin near zero, so that training begins at mean pooling; read-outs at zero.
    generator = np.random.Generator(np.random.Philox(key=[problem.seed, _START]))
    start = torch.from_numpy(generator.normal(0, 1 / width, (config.queries, width)).astype(np.float32))
    heads = [
        [
            start.clone().requires_grad_(),
            *(torch.zeros(shape, requires_grad=True) for shape in (start.shape, ())),
        ]
        for _ in rates
    ]
    optimizer = torch.optim.AdamW(
        [{"params": head, "lr": rate} for head, rate in zip(heads, rates, strict=True)],
        weight_decay=config.weight_decay,
    )
    on_best = np.empty(0)
    chosen: dict[str, float] = {}
    least = np.inf
    kept: list[Tensor] = []
    for step in range(config.steps):
        rows = _batch(problem, step, config.batch)
        inputs = scale.read(rows)
        loss = torch.zeros(())
        for head in heads:
            loss = loss + F.binary_cross_entropy_with_logits(_logits(inputs, head), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * cosine(1.0, 0.0, step / config.steps)
        optimizer.step()
        if (step + 1) % config.check_every and step + 1 < config.steps:
            continue
        on_validation = _probabilities(scale, heads, problem.validation, config.batch)
        losses = log_loss(on_validation, problem.labels[problem.validation])
        number = int(np.argmin(losses))
        if losses[number] < least or not kept or not len(problem.validation):
            least, kept = float(losses[number]), [part.detach().clone() for part in heads[number]]
            chosen = {"learning_rate": rates[number], "step": float(step + 1)}
            on_best = on_validation[number]
    scores = _probabilities(scale, [kept], problem.scored, config.batch)[0]
    parts = [part.numpy() for part in (scale.mean, scale.deviation, *kept)]
    return Fitted(on_best, scores, chosen, AttentiveHead(*parts))


def _batch(problem: Problem, step: int, batch: int) -> NDArray[np.int64]:
    """Training rows of a step, drawn without repetition as a function of (seed, step)."""
    generator = np.random.Generator(np.random.Philox(key=[problem.seed, _ORDER], counter=[0, 0, 0, step]))
    places = generator.choice(len(problem.train), min(batch, len(problem.train)), replace=False)
    return problem.train[places]


def _logits(tokens: Tensor, head: Sequence[Tensor]) -> Tensor:
    """(B, patches, width) -> (B,)."""
    queries, readout, bias = head
    attention = (tokens @ queries.T).softmax(dim=1)  # over patches
    return (attention.transpose(1, 2) @ tokens * readout).sum(dim=(1, 2)) + bias


@torch.no_grad()
def _probabilities(
    scale: _Scale, heads: Sequence[Sequence[Tensor]], rows: NDArray[np.int64], batch: int
) -> NDArray[np.float64]:
    """(heads, rows)."""
    found = np.empty((len(heads), len(rows)))
    for start in range(0, len(rows), batch):
        inputs = scale.read(rows[start : start + batch])
        for number, head in enumerate(heads):
            found[number, start : start + len(inputs)] = torch.sigmoid(_logits(inputs, head).double()).numpy()
    return found
