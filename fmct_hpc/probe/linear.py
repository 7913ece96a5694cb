"""A linear classifier trained by SGD at many learning rates at once, as in the evaluation of DINOv2.

Oquab et al. 2024, appendix B.3: SGD with momentum 0.9 and no weight decay, cosine decay to zero, the rate
chosen on validation. Rates and labels with the same training volumes share their batches and are the columns
of one matrix.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.batches import batches
from fmct_hpc.probe.heads import LinearHead, Scaling
from fmct_hpc.probe.methods.linear import LinearConfig
from fmct_hpc.probe.problem import Fitted, Problem, log_loss
from fmct_hpc.train.schedules import cosine

_ORDER = int.from_bytes(b"order")


def linear(
    features: NDArray[np.floating[Any]], problems: Sequence[Problem], config: LinearConfig
) -> list[Fitted]:
    """Train every problem at every rate, and keep the rate with the lowest `log_loss` on validation."""
    fitted: list[Fitted | None] = [None] * len(problems)
    shared: dict[tuple[bytes, bytes, int], list[int]] = {}
    for number, problem in enumerate(problems):
        same = (problem.unlabelled.tobytes(), problem.train.tobytes(), problem.seed)
        shared.setdefault(same, []).append(number)
    ready: tuple[bytes, Scaling, Tensor] | None = None
    for (unlabelled, _, _), group in shared.items():
        if ready is None or ready[0] != unlabelled:
            scaling = Scaling.over(features, problems[group[0]].unlabelled)
            ready = unlabelled, scaling, torch.from_numpy(scaling(features))
        for i, solution in zip(group, _train(*ready[1:], [problems[i] for i in group], config), strict=True):
            fitted[i] = solution
    return [solution for solution in fitted if solution is not None]


def _train(scaling: Scaling, x: Tensor, problems: Sequence[Problem], config: LinearConfig) -> list[Fitted]:
    """Fit problems with the same training volumes and seed; column r · K + k is rate r of problem k."""
    rows, seed = problems[0].train, problems[0].seed
    labels = torch.from_numpy(np.stack([p.labels[rows] for p in problems], axis=1)).float()
    count, batch = len(problems), min(config.batch, len(rows))
    rates = torch.tensor(config.learning_rates) * (batch / 256)
    lr = rates.repeat_interleave(count)
    x_train, y = x[rows], labels.repeat(1, len(rates))
    w = torch.zeros(x.shape[1] + 1, y.shape[1])
    velocity = torch.zeros_like(w)
    for step, places in enumerate(batches_of_steps(len(rows), batch, config.steps, seed)):
        inputs = x_train[places]
        residual = (torch.sigmoid(inputs @ w[:-1] + w[-1]) - y[places]) / batch
        velocity.mul_(config.momentum)
        velocity[:-1].addmm_(inputs.T, residual)
        velocity[-1] += residual.sum(dim=0)
        w -= cosine(1.0, 0.0, step / config.steps) * lr * velocity
    w = w.reshape(len(w), len(rates), count)
    fitted = []
    for k, problem in enumerate(problems):

        def probabilities(places: NDArray[np.int64], w: Tensor = w[:, :, k]) -> NDArray[np.float64]:
            return torch.sigmoid((x[places] @ w[:-1] + w[-1]).double()).T.numpy()

        on_validation = probabilities(problem.validation)
        best = int(np.argmin(log_loss(on_validation, problem.labels[problem.validation])))
        scores = probabilities(problem.scored)[best]
        chosen = {"learning_rate": config.learning_rates[best]}
        kept = w[:, best, k].numpy()
        head = LinearHead(*scaling, kept[:-1].copy(), kept[-1].copy())
        fitted.append(Fitted(on_validation[best], scores, chosen, head))
    return fitted


def batches_of_steps(count: int, batch: int, steps: int, seed: int) -> list[Tensor]:
    """Row numbers below `count` for each step."""

    def order(number: int) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.Philox(key=[seed, _ORDER], counter=[0, 0, 0, number]))
        return generator.permutation(count)

    return [torch.from_numpy(places) for places in batches(count, batch, steps, order)]
