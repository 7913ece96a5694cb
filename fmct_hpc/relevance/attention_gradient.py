"""Attention weighted by its gradient (Chefer et al. 2021, "Generic Attention-model Explainability")."""

import torch
from torch import Tensor

from fmct_hpc.model.attention import explicit_attention
from fmct_hpc.relevance.method_input import MethodInput


def attention_gradient(inputs: MethodInput) -> Tensor:
    """Attention from the logit to each patch, weighted by positive gradients: (S, n), at least 0.

    Chefer et al. 2021, equations 5 and 6, for self-attention: R starts as the identity and becomes R + Ā R
    with each block, where Ā is the mean over heads of the positive part of weight times gradient. As in the
    paper, the row of CLS is used if a head reads CLS. A mean, a maximum or an attentive query is treated as
    one more attention layer above the blocks, with gradients of its weights (`Reading`): its row is Ā R. The
    rows of all inputs of a head are added.
    """
    reading = inputs.reading
    with torch.enable_grad(), explicit_attention(inputs.model.blocks[: inputs.layer + 1]) as seen:
        # Gradients start at the view, so that they are also available with frozen parameters.
        tokens = inputs.tokens(inputs.view.detach().requires_grad_())
        weights = [row if row.requires_grad else row.requires_grad_() for row in reading.weights(tokens)]
        logit = reading.logits(tokens, weights).sum()
        gradients = torch.autograd.grad(logit, [*weights, *seen], allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        products = [weight * one for weight, one in zip([*weights, *seen], gradients, strict=True)]
        read = torch.zeros_like(tokens[:, :, 0])
        for row, weight, product in zip(reading.rows, weights, products, strict=False):
            is_cls = isinstance(row, str) and row == "cls"
            read += weight.mean(dim=-1) if is_cls else product.sum(dim=-1).clamp(min=0)
        for product in reversed(products[len(weights) :]):
            read = read + torch.einsum("st,stu->su", read, product.clamp(min=0).mean(dim=1))
        return read[:, reading.prefix :]
