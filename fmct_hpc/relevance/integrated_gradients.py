"""Integrated gradients (Sundararajan, Taly and Yan 2017, section 3) from air to the scan, per patch."""

import torch
from torch import Tensor

from fmct_hpc.relevance.gradient_input import of_patches
from fmct_hpc.relevance.method_input import MethodInput

STEPS = 32
"""Points on the path; according to the paper (section 5), 20 to 300 give a sum within a few per cent."""
AT_ONCE = 4


def integrated_gradients(inputs: MethodInput, steps: int = STEPS) -> Tensor:
    """Each encoded patch's share of logit(scan) - logit(air), in units of the logit: (S, n), with sign.

    The gradient is averaged over the midpoints of `steps` equal parts of the straight path from a view of air
    (0 in every window) to the scan, and multiplied by the scan. The encoded patches are those of the scan on
    the whole path. The shares sum to the difference, up to the error of the numerical integration.
    """
    view = inputs.view.detach()
    total = torch.zeros_like(view)
    points = max(1, AT_ONCE // len(view))
    for start in range(0, steps, points):
        numbers = torch.arange(start, min(start + points, steps), device=view.device)
        along = ((numbers + 0.5) / steps).reshape(-1, 1, 1, 1, 1, 1)
        with torch.enable_grad():
            views = (along * view).flatten(0, 1).requires_grad_()
            (gradients,) = torch.autograd.grad(inputs.logits(views).sum(), views)
        total += gradients.unflatten(0, (-1, len(view))).sum(dim=0)
    return of_patches(inputs, total / steps * view)
