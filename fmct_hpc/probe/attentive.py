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
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.config import AttentiveConfig
from fmct_hpc.probe.heads import Head
from fmct_hpc.probe.kinds import BINARY, Kind
from fmct_hpc.probe.problem import Fitted, Problem
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
    """(queries, width)"""
    readout: NDArray[np.float32]
    """(queries, width), or of another kind than binary (queries, width, directions)"""
    bias: NDArray[np.float32]
    """(), or (outputs,)"""

    def scores(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Of patch tokens (B, patches, width), as a feature store keeps them."""
        return torch.sigmoid(torch.from_numpy(self.raw(inputs)).double()).numpy()

    def raw(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Of patch tokens (B, patches, width), as a feature store keeps them."""
        head = [torch.from_numpy(np.asarray(part)) for part in (self.queries, self.readout, self.bias)]
        tokens = torch.from_numpy((inputs.astype(np.float32) - self.mean) / self.deviation)
        return _raw(tokens, head).numpy()


def attentive(
    tokens: NDArray[np.floating[Any]], problems: Sequence[Problem], config: AttentiveConfig
) -> list[Fitted]:
    """Train every problem at every rate; keep rate and step of least loss on validation.

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
    kind = problem.kind.on(problem.labels[problem.train])
    truth = problem.labels[problem.validation]
    rates, width = config.learning_rates, tokens.shape[-1]
    # Queries begin near zero, so that training begins at mean pooling; read-outs at zero.
    generator = np.random.Generator(np.random.Philox(key=[problem.seed, _START]))
    start = torch.from_numpy(generator.normal(0, 1 / width, (config.queries, width)).astype(np.float32))
    free = kind.start(problem.labels[problem.train])
    shape = start.shape if kind == BINARY else (*start.shape, kind.directions)
    heads = [
        [part.requires_grad_() for part in (start.clone(), torch.zeros(shape), free.clone())] for _ in rates
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
            loss = loss + kind.loss(_raw(inputs, _finished(head, kind)), problem.labels[rows]) / len(rows)
        optimizer.zero_grad()
        loss.backward()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * cosine(1.0, 0.0, step / config.steps)
        optimizer.step()
        if (step + 1) % config.check_every and step + 1 < config.steps:
            continue
        on_validation = _predictions(scale, heads, kind, problem.validation, config.batch)
        losses = [kind.choice_loss(predicted, truth) for predicted in on_validation]
        number = int(np.argmin(losses))
        if losses[number] < least or not kept or not len(problem.validation):
            least, kept = float(losses[number]), [part.detach().clone() for part in heads[number]]
            chosen = {"learning_rate": rates[number], "step": float(step + 1)}
            on_best = on_validation[number]
    scores = _predictions(scale, [kept], kind, problem.scored, config.batch)[0]
    queries, readout, bias = (part.numpy() for part in _finished(kept, kind))
    readout, bias = (part.astype(np.float32) for part in kind.absorbed(readout, bias))
    parts = (scale.mean.numpy(), scale.deviation.numpy(), queries, readout, bias)
    return Fitted(on_best, scores, chosen, AttentiveHead(*parts))


def _batch(problem: Problem, step: int, batch: int) -> NDArray[np.int64]:
    """Training rows of a step, drawn without repetition as a function of (seed, step)."""
    generator = np.random.Generator(np.random.Philox(key=[problem.seed, _ORDER], counter=[0, 0, 0, step]))
    places = generator.choice(len(problem.train), min(batch, len(problem.train)), replace=False)
    return problem.train[places]


def _finished(head: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """Queries, readout, and the biases of the free parameters."""
    queries, readout, free = head
    return [queries, readout, kind.biases(free)]


def _raw(tokens: Tensor, head: Sequence[Tensor]) -> Tensor:
    """(B, patches, width) -> (B,), or (B, outputs) of a readout with directions."""
    queries, readout, bias = head
    attention = (tokens @ queries.T).softmax(dim=1)  # over patches
    gathered = attention.transpose(1, 2) @ tokens
    if readout.ndim > 2:
        return torch.tensordot(gathered, readout, dims=2) + bias
    return (gathered * readout).sum(dim=(1, 2)) + bias


@torch.no_grad()
def _predictions(
    scale: _Scale, heads: Sequence[Sequence[Tensor]], kind: Kind, rows: NDArray[np.int64], batch: int
) -> list[NDArray[np.float64]]:
    """Of each head, a row a volume."""
    finished = [_finished(head, kind) for head in heads]
    raw: list[list[NDArray[np.float32]]] = [[_raw(scale.read(rows[:0]), head).numpy()] for head in finished]
    for start in range(0, len(rows), batch):
        inputs = scale.read(rows[start : start + batch])
        for own, head in zip(raw, finished, strict=True):
            own.append(_raw(inputs, head).numpy())
    return [kind.predictions(np.concatenate(own)) for own in raw]
