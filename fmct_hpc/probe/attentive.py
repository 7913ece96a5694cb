"""A classifier with learned queries that attend to patch tokens, for findings that fill few patches.

Each query weighs the patches by a softmax of its product with their tokens; a linear classifier reads the
weighted means of all queries. Without projections of keys and values (Psomas et al. 2025, "Attention,
Please!") it costs a hundredth of an attention layer, and since the classifier is linear, projected values
would add nothing to what it can compute.

For studies, attention is over the patches of all series together. An embedding of the series' role is added
to the keys and not to the values, as DETR adds positions (Carion et al. 2020, appendix A.3). A query can
therefore prefer, for example, the thin bone series.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.optimizer import AdamW
from fmct_hpc.probe.heads import Head
from fmct_hpc.probe.kinds import BINARY, Kind
from fmct_hpc.probe.methods.attentive import AttentiveConfig
from fmct_hpc.probe.problem import Fitted, Problem
from fmct_hpc.probe.samples import Members
from fmct_hpc.probe.series import ROLES, Series, padded, role_terms
from fmct_hpc.train.pace import shown
from fmct_hpc.train.schedules import cosine

_ORDER = int.from_bytes(b"order")
_START = int.from_bytes(b"start")
SAMPLE = 64
"""Volumes for channel means and deviations: their patches are tens of thousands of tokens."""


@dataclass(frozen=True)
class StudyTokens:
    """Patch tokens of studies, read from the array of volumes."""

    tokens: NDArray[np.floating[Any]]
    """(volumes, patches, width); read batch by batch."""
    places: NDArray[np.int64]
    """(M,): the members' rows in `tokens`."""
    members: Members

    def read(self, rows: NDArray[np.int64]) -> Series:
        """The tokens of the studies in `rows`."""
        some = Members(self.places, self.members.roles, self.members.counts).of(rows)
        return some.reading(self.tokens[some.volumes])


class Inputs(NamedTuple):
    """Standardised tokens of a batch."""

    tokens: Tensor
    """(B, patches, width); for studies, the patches of all series, concatenated."""
    roles: Tensor | None = None
    """(B, series): numbers of the series' roles, -1 as padding; None for volumes."""


@dataclass(frozen=True)
class AttentiveHead(Head):
    """Queries and the linear classifier of the attention-weighted means."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    """(width,) each, of the patch tokens."""
    queries: NDArray[np.float32]
    """(queries, width)"""
    readout: NDArray[np.float32]
    """(queries, width); for labels that are not binary (queries, width, directions)"""
    bias: NDArray[np.float32]
    """(), or (outputs,)"""

    def scores(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Probabilities (B,) from patch tokens (B, patches, width) as stored in a feature store."""
        return torch.sigmoid(torch.from_numpy(self.raw(inputs)).double()).numpy()

    def raw(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Raw outputs from patch tokens (B, patches, width) as stored in a feature store."""
        return _raw(
            Inputs(self._standardised(inputs)), self._parts(self.queries, self.readout, self.bias)
        ).numpy()

    def _standardised(self, inputs: NDArray[np.floating[Any]]) -> Tensor:
        return torch.from_numpy((inputs.astype(np.float32) - self.mean) / self.deviation)

    @staticmethod
    def _parts(*arrays: NDArray[np.float32]) -> list[Tensor]:
        return [torch.from_numpy(np.asarray(part)) for part in arrays]


@dataclass(frozen=True)
class StudyAttentiveHead(AttentiveHead):
    """An attentive head over the series of studies."""

    roles: NDArray[np.float32]
    """(roles, width): embeddings, in the order of `fmct_hpc.probe.series.ROLES`."""

    def raw_of_studies(self, series: Series) -> NDArray[np.float32]:
        """Raw outputs (B, ...) from the patch tokens of all series."""
        tokens = self._standardised(series.values)
        parts = self._parts(self.queries, self.readout, self.bias, self.roles)
        return _raw(_together(tokens, series), parts).numpy()


def _together(tokens: Tensor, series: Series) -> Inputs:
    """Group tokens (M, patches, width) of all series by study."""
    places, roles = padded(series.counts, series.roles)
    return Inputs(tokens[places].flatten(1, 2), roles)


def attentive(
    tokens: NDArray[np.floating[Any]] | StudyTokens, problems: Sequence[Problem], config: AttentiveConfig
) -> list[Fitted]:
    """Train every problem at every learning rate; keep the rate and step with the lowest validation loss.

    tokens: (N, patches, width), read batch by batch, or the tokens of N studies.
    """
    return [_train(tokens, problem, config) for problem in problems]


class _Scale:
    """Channel means and deviations over the patches of some training volumes."""

    def __init__(self, tokens: NDArray[np.floating[Any]] | StudyTokens, rows: NDArray[np.int64]) -> None:
        self._tokens = tokens
        chosen = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
        sample = self._read(chosen)[0].flatten(0, 1)
        self.mean, self.deviation = sample.mean(dim=0), sample.std(dim=0).clamp(1e-6)

    def _read(self, rows: NDArray[np.int64]) -> tuple[Tensor, Series | None]:
        """Tokens (B, patches, width) of volumes, or (M, patches, width) of all series of studies."""
        series = self._tokens.read(rows) if isinstance(self._tokens, StudyTokens) else None
        values = self._tokens[rows] if series is None else series.values  # type: ignore[index]
        return torch.from_numpy(np.asarray(values, dtype=np.float32)), series

    def read(self, rows: NDArray[np.int64]) -> Inputs:
        """Standardised tokens of the volumes or studies in `rows`."""
        read, series = self._read(rows)
        standardised = (read - self.mean) / self.deviation
        return Inputs(standardised) if series is None else _together(standardised, series)


def _train(
    tokens: NDArray[np.floating[Any]] | StudyTokens, problem: Problem, config: AttentiveConfig
) -> Fitted:
    scale = _Scale(tokens, problem.unlabelled)
    kind = problem.kind.on(problem.labels[problem.train])
    truth = problem.labels[problem.validation]
    rates, width = config.learning_rates, len(scale.mean)
    # Queries start near zero, which makes the initial pooling a mean; read-outs start at zero.
    generator = np.random.Generator(np.random.Philox(key=[problem.seed, _START]))
    start = torch.from_numpy(generator.normal(0, 1 / width, (config.queries, width)).astype(np.float32))
    free = kind.start(problem.labels[problem.train])
    shape = start.shape if kind == BINARY else (*start.shape, kind.directions)
    roles = [torch.zeros(len(ROLES), width)] if isinstance(tokens, StudyTokens) else []
    heads = [
        [part.clone().requires_grad_() for part in (start, torch.zeros(shape), free, *roles)] for _ in rates
    ]
    optimizer = AdamW(
        [{"params": head, "lr": rate} for head, rate in zip(heads, rates, strict=True)],
        weight_decay=config.weight_decay,
    )
    on_best = np.empty(0)
    chosen: dict[str, float] = {}
    lowest = np.inf
    kept: list[Tensor] = []
    for step in shown(range(config.steps), config.steps, "attentive probe"):
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
        if losses[number] < lowest or not kept or not len(problem.validation):
            lowest, kept = float(losses[number]), [part.detach().clone() for part in heads[number]]
            chosen = {"learning_rate": rates[number], "step": float(step + 1)}
            on_best = on_validation[number]
    scores = _predictions(scale, [kept], kind, problem.scored, config.batch)[0]
    queries, readout, bias, *embedding = (part.numpy() for part in _finished(kept, kind))
    readout, bias = (part.astype(np.float32) for part in kind.absorbed(readout, bias))
    parts = (scale.mean.numpy(), scale.deviation.numpy(), queries, readout, bias, *embedding)
    of_studies = bool(embedding)
    return Fitted(on_best, scores, chosen, (StudyAttentiveHead if of_studies else AttentiveHead)(*parts))


def _batch(problem: Problem, step: int, batch: int) -> NDArray[np.int64]:
    """Training rows of a step, drawn without replacement as a function of (seed, step)."""
    generator = np.random.Generator(np.random.Philox(key=[problem.seed, _ORDER], counter=[0, 0, 0, step]))
    places = generator.choice(len(problem.train), min(batch, len(problem.train)), replace=False)
    return problem.train[places]


def _finished(head: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """Queries, readout, biases computed from the free parameters, and for studies the role embedding."""
    queries, readout, free, *embedding = head
    return [queries, readout, kind.biases(free), *embedding]


def _raw(inputs: Inputs, head: Sequence[Tensor]) -> Tensor:
    """Raw outputs (B,), or (B, outputs) if the readout has directions."""
    queries, readout, bias, *embedding = head
    tokens = inputs.tokens
    products = tokens @ queries.T
    if inputs.roles is not None:
        terms = role_terms(inputs.roles, queries, embedding[0])
        products = products + terms.repeat_interleave(tokens.shape[1] // terms.shape[1], dim=1)
    attention = products.softmax(dim=1)  # over patches
    gathered = attention.transpose(1, 2) @ tokens
    if readout.ndim > 2:
        return torch.tensordot(gathered, readout, dims=2) + bias
    return (gathered * readout).sum(dim=(1, 2)) + bias


@torch.no_grad()
def _predictions(
    scale: _Scale, heads: Sequence[Sequence[Tensor]], kind: Kind, rows: NDArray[np.int64], batch: int
) -> list[NDArray[np.float64]]:
    """Predictions of each head, one row per volume."""
    finished = [_finished(head, kind) for head in heads]
    raw: list[list[NDArray[np.float32]]] = [[_raw(scale.read(rows[:0]), head).numpy()] for head in finished]
    for start in range(0, len(rows), batch):
        inputs = scale.read(rows[start : start + batch])
        for own, head in zip(raw, finished, strict=True):
            own.append(_raw(inputs, head).numpy())
    return [kind.predictions(np.concatenate(own)) for own in raw]
