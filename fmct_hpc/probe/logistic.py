"""L2-regularised logistic regression for many labels, training sets and strengths at once.

All problems share one matrix of features, so an iteration for all of them is two matrix products. The
features are rotated to the axes of their covariance, where the Hessian is nearly diagonal. L-BFGS initialised
with that diagonal (Nocedal and Wright 2006, algorithm 7.4) needs tens of iterations, and hundreds on the raw
features of a vision transformer, whose variances span six orders of magnitude.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.heads import LinearHead, Scaling
from fmct_hpc.probe.methods.logistic import LogisticConfig
from fmct_hpc.probe.problem import Fitted, Problem, by_unlabelled, log_loss

MEMORY = 10
"""Pairs of steps and gradients kept by L-BFGS."""
TOLERANCE = 1e-9
"""For half the squared gradient in the preconditioner's metric, approximately the remaining decrease."""
MAX_ITERATIONS = 300
MAX_ELEMENTS = 2**26
"""Upper bound of volumes × columns of one solve; about eight such float32 arrays are in memory: 2 GB."""


def logistic(
    features: NDArray[np.floating[Any]], problems: Sequence[Problem], config: LogisticConfig
) -> list[Fitted]:
    """Fit every problem at every strength, and keep the strength with the lowest `log_loss` on validation."""
    fitted: list[Fitted | None] = [None] * len(problems)
    for group in by_unlabelled(problems):
        scaling = Scaling.over(features, problems[group[0]].unlabelled)
        x = torch.from_numpy(scaling(features))
        for part in _together([problems[i] for i in group]):
            chosen = [problems[group[i]] for i in part]
            for i, solution in zip(part, _fit_and_choose(x, scaling, chosen, config.strengths), strict=True):
                fitted[group[i]] = solution
    return [solution for solution in fitted if solution is not None]


def _together(problems: Sequence[Problem]) -> list[list[int]]:
    """Group problems to solve together: all, if their training volumes mostly overlap, else one by one."""
    union = np.unique(np.concatenate([problem.train for problem in problems]))
    used = sum(len(problem.train) for problem in problems)
    if 2 * used >= len(union) * len(problems):
        return [list(range(len(problems)))]
    return [[number] for number in range(len(problems))]


def _fit_and_choose(
    x: Tensor, scaling: Scaling, problems: Sequence[Problem], strengths: Sequence[float]
) -> list[Fitted]:
    rows = np.unique(np.concatenate([problem.train for problem in problems]))
    place = np.full(len(x), -1)
    place[rows] = np.arange(len(rows))
    labels = torch.zeros(len(rows), len(problems))
    used = torch.zeros(len(rows), len(problems))
    for column, problem in enumerate(problems):
        labels[place[problem.train], column] = torch.from_numpy(problem.labels[problem.train]).float()
        used[place[problem.train], column] = 1
    weights, intercepts = fit_path(x[rows], labels, used, strengths)
    fitted = []
    for column, problem in enumerate(problems):
        w, b = weights[:, :, column], intercepts[:, column]  # (strengths, width), (strengths,)
        on_validation = torch.sigmoid(x[problem.validation] @ w.T + b).T.double().numpy()
        best = int(np.argmin(log_loss(on_validation, problem.labels[problem.validation])))
        scores = torch.sigmoid((x[problem.scored] @ w[best]).double() + b[best]).numpy()
        head = LinearHead(*scaling, w[best].numpy().copy(), b[best].numpy().copy())
        fitted.append(Fitted(on_validation[best], scores, {"strength": float(strengths[best])}, head))
    return fitted


def fit_path(x: Tensor, labels: Tensor, used: Tensor, strengths: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weights (S, D, K) and intercepts (S, K) that minimise ½ ‖w‖² + C Σ_i used_i log-loss_i.

    The intercept is not penalised.

    x: float32 (N, D); labels, used: float32 (N, K), 0 or 1, of K problems; strengths: S values of C.
    """
    axes, variances = _axes(x)
    turned = x @ axes
    volumes = used.sum(dim=0)
    share = used / volumes
    at_once = max(1, MAX_ELEMENTS // labels.numel())
    weights, intercepts = [], []
    for start in range(0, len(strengths), at_once):
        part = torch.tensor(strengths[start : start + at_once])
        ridge = 1 / (part[:, None] * volumes)
        own_labels, own_share = (t.repeat(1, len(part)) for t in (labels, share))
        w, b = _minimise(turned, variances, own_labels, own_share, ridge.reshape(-1).float())
        weights.append((axes @ w).reshape(len(axes), *ridge.shape).transpose(0, 1))
        intercepts.append(b.reshape(ridge.shape))
    return torch.cat(weights), torch.cat(intercepts)


def _axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Principal axes (D, R) of the rows and their mean squares (R,), from the smaller Gram matrix.

    Directions with zero variance get no weight from a ridge penalty and are left out.
    """
    rows, width = x.shape
    wide = rows < width
    gram = (x @ x.T if wide else x.T @ x).double()
    squares, vectors = torch.linalg.eigh(gram)
    kept = squares > squares[-1] * 1e-7  # the precision of float32 features
    axes = x.T @ (vectors[:, kept] / squares[kept].sqrt()).float() if wide else vectors[:, kept].float()
    return axes, (squares[kept] / rows).float()


def _minimise(
    x: Tensor, variances: Tensor, labels: Tensor, share: Tensor, ridge: Tensor
) -> tuple[Tensor, Tensor]:
    """Minimise Σ_i share_i log-loss_i + ½ ridge ‖w‖² for each column: w (R, B) and intercept (B,).

    x: (N, R); labels, share: (N, B), shares summing to 1 in each column; ridge: (B,). Columns that have
    converged leave the batch.
    """
    rate = (share * labels).sum(dim=0).clamp(1e-6, 1 - 1e-6)
    curvature = rate * (1 - rate)
    # The Hessian's diagonal at w = 0, the intercept's last.
    diagonal = torch.cat([curvature * variances[:, None] + ridge, curvature[None]])
    ridge = torch.cat([ridge.expand(len(variances), -1), torch.zeros_like(ridge)[None]])
    w = torch.zeros_like(diagonal)
    w[-1] = torch.logit(rate)
    result = w.clone()
    active = torch.arange(w.shape[1])
    logits = w[-1].expand(len(x), -1).clone()
    loss = _loss(logits, labels, share, w, ridge)
    gradient = _gradient(x, logits, labels, share, w, ridge)
    pairs: list[_Pair] = []
    for _ in range(MAX_ITERATIONS):
        open_ = (gradient.square() / diagonal).sum(dim=0) / 2 > TOLERANCE
        result[:, active] = w
        if not open_.any():
            break
        if open_.sum() <= 0.8 * len(open_):
            active = active[open_]
            w, gradient, diagonal, ridge = (t[:, open_] for t in (w, gradient, diagonal, ridge))
            logits, labels, share = (t[:, open_] for t in (logits, labels, share))
            loss = loss[open_]
            pairs = [_Pair.of(pair.step[:, open_], pair.change[:, open_]) for pair in pairs]
        direction = -_two_loops(gradient, pairs, diagonal)
        slope = (gradient * direction).sum(dim=0)
        direction = torch.where(slope < 0, direction, -gradient / diagonal)
        slope = (gradient * direction).sum(dim=0)
        towards = x @ direction[:-1] + direction[-1]
        length = torch.ones_like(loss)
        for _ in range(20):  # halve the step where the loss did not decrease enough (Armijo)
            reached = _loss(logits + length * towards, labels, share, w + length * direction, ridge)
            short = reached > loss + 1e-4 * length * slope + 1e-7 * loss
            if not short.any():
                break
            length = torch.where(short, length / 2, length)
        step = length * direction
        w = w + step
        logits += length * towards
        loss, before = reached, gradient
        gradient = _gradient(x, logits, labels, share, w, ridge)
        change = gradient - before
        # For a tiny step, rounding can hide the curvature; the pair is not used then.
        sound = (step * change).sum(dim=0) > 1e-12
        pairs = [*pairs, _Pair.of(step * sound, change * sound)][-MEMORY:]
    result[:, active] = w
    return result[:-1], result[-1]


def _loss(logits: Tensor, labels: Tensor, share: Tensor, w: Tensor, ridge: Tensor) -> Tensor:
    losses = F.softplus(logits) - labels * logits
    return (share * losses).sum(dim=0) + (ridge * w.square()).sum(dim=0) / 2


def _gradient(x: Tensor, logits: Tensor, labels: Tensor, share: Tensor, w: Tensor, ridge: Tensor) -> Tensor:
    residual = share * (torch.sigmoid(logits) - labels)
    return torch.cat([x.T @ residual, residual.sum(dim=0)[None]]) + ridge * w


class _Pair(NamedTuple):
    """A step and the gradient's change; zeros where the pair is not used."""

    step: Tensor
    """(D + 1, B)."""
    change: Tensor
    """(D + 1, B)."""
    product: Tensor
    """Their scalar products, (B,)."""
    inverse: Tensor
    """1 / product, (B,); 0 for a pair that is not used."""

    @classmethod
    def of(cls, step: Tensor, change: Tensor) -> "_Pair":
        product = (step * change).sum(dim=0)
        inverse = torch.where(product > 0, 1 / product.clamp(min=1e-30), torch.zeros_like(product))
        return cls(step, change, product, inverse)


def _two_loops(gradient: Tensor, pairs: Sequence[_Pair], diagonal: Tensor) -> Tensor:
    """The inverse Hessian's estimate times the gradient, per column; pairs of zeros have no effect."""
    q = gradient.clone()
    factors = []
    for step, change, _, inverse in reversed(pairs):
        factor = inverse * (step * q).sum(dim=0)
        factors.append(factor)
        q -= factor * change
    r = q / diagonal
    if pairs:
        _, change, product, _ = pairs[-1]
        weighted = (change.square() / diagonal).sum(dim=0)
        r *= torch.where(product > 0, product / weighted.clamp(min=1e-30), torch.ones_like(product))
    for factor, (step, change, _, inverse) in zip(reversed(factors), pairs, strict=True):
        r += step * (factor - inverse * (change * r).sum(dim=0))
    return r
