"""Attention rollout (Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3)."""

import torch
from torch import Tensor

from fmct_hpc.model.attention import explicit_attention
from fmct_hpc.relevance.method_input import MethodInput


@torch.no_grad()
def rollout(inputs: MethodInput) -> Tensor:
    """Attention from the tokens that the head reads to each patch: float32 (S, n), at least 0.

    A block's matrix is the mean of its heads' weights and the identity, which represents the residual
    connection, with weights of 0.5; the product over all blocks up to the layer gives the mixture of tokens
    in each token. Its rows are averaged with the weights by which the head reads them, with equal weights for
    all rows of a `Reading` (only CLS for an encoder without a head). The map does not depend on the score and
    is the same for all labels with the same reading.
    """
    blocks = inputs.model.blocks[: inputs.layer + 1]
    with explicit_attention(blocks) as seen:
        tokens = inputs.tokens(inputs.view)
    read = torch.stack([row.mean(dim=-1) for row in inputs.reading.weights(tokens)]).mean(dim=0)
    for weights in reversed(seen):
        read = (torch.einsum("st,stu->su", read, weights.mean(dim=1)) + read) / 2
    return read[:, inputs.reading.prefix :]
