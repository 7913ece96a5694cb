"""L2-penalised linear models of any smooth loss along a path of strengths.

The features are rotated to their principal axes and scaled so that the Hessian is nearly the identity; L-BFGS
then needs tens of iterations (Nocedal and Wright 2006, section 7.2). Computed in float64.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.scored import FloatArray

if TYPE_CHECKING:
    from fmct_hpc.probe.kinds.base import Kind

CURVATURE = 0.25
"""The maximum curvature of a logistic loss; it only scales the steps."""
MAX_ITERATIONS = 300
"""As for binary labels. With thousands of channels the weakest penalties need more, but are not chosen."""


class Path(NamedTuple):
    """Linear models, one per strength."""

    weights: FloatArray
    """(S, D, directions)"""
    biases: FloatArray
    """(S, outputs)"""


class Axes(NamedTuple):
    """Principal axes of features with nonzero variance."""

    vectors: FloatArray
    """(D, R)"""
    squares: FloatArray
    """(R,): sums of squares along the axes."""


def principal_axes(x: FloatArray) -> Axes:
    """The axes of the rows of x (N, D), from the smaller of the two Gram matrices."""
    wide = x.shape[0] < x.shape[1]
    squares, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = squares > squares[-1] * 1e-10
    squares, vectors = squares[kept], vectors[:, kept]
    return Axes(x.T @ (vectors / np.sqrt(squares)) if wide else vectors, squares)


def fit_path(kind: "Kind", x: FloatArray, targets: NDArray[Any], strengths: Sequence[float]) -> Path:
    """Models that minimise ½ ‖w‖² + C Σ loss for each strength C; biases are not penalised."""
    axes = principal_axes(x)
    turned = x @ axes.vectors
    rank, directions, count = len(axes.squares), kind.directions, len(x)
    free = kind.start(targets).double()
    parameters = np.zeros(rank * directions + kind.outputs)
    parameters[rank * directions :] = free.numpy()
    from scipy.optimize import minimize

    weights, biases = {}, {}
    for strength in sorted(strengths):  # warm start from the previous solution
        scale = 1 / np.sqrt(CURVATURE * axes.squares / count + 1 / (strength * count))[:, None]

        def objective(
            p: NDArray[np.float64], scale: FloatArray = scale, strength: float = strength
        ) -> tuple[float, NDArray[np.float64]]:
            w = p[: rank * directions].reshape(rank, directions) * scale
            free = torch.from_numpy(p[rank * directions :].copy()).requires_grad_()
            linear = torch.from_numpy(turned @ w).requires_grad_()
            loss = kind.loss(linear + kind.biases(free), targets) / count
            by_linear, by_free = torch.autograd.grad(loss, (linear, free), allow_unused=True)
            slope = scale * (turned.T @ by_linear.numpy() + w / (strength * count))
            last = np.zeros(kind.outputs) if by_free is None else by_free.numpy()
            value = float(loss.detach()) + float((w**2).sum()) / (2 * strength * count)
            return value, np.concatenate([slope.ravel(), last])

        options = {"maxiter": MAX_ITERATIONS, "ftol": 1e-13, "gtol": 1e-7, "maxcor": 20}
        solution = minimize(objective, parameters, jac=True, method="L-BFGS-B", options=options).x
        w = solution[: rank * directions].reshape(rank, directions) * scale
        weights[strength] = axes.vectors @ w
        biases[strength] = kind.biases(torch.from_numpy(solution[rank * directions :].copy())).numpy()
        parameters = solution
        # Convert the parameters to the scale of the next strength; the model is unchanged.
        stronger = [other for other in sorted(strengths) if other > strength]
        if stronger:
            after = 1 / np.sqrt(CURVATURE * axes.squares / count + 1 / (stronger[0] * count))[:, None]
            parameters[: rank * directions] = (w / after).ravel()
    return Path(
        np.stack([weights[strength] for strength in strengths]),
        np.stack([biases[strength] for strength in strengths]),
    )
