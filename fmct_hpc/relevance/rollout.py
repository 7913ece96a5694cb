"""Attention rollout (Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3)."""

import torch
from torch import Tensor

from fmct_hpc.model.attention import explicit_attention
from fmct_hpc.relevance.question import Question


@torch.no_grad()
def rollout(question: Question) -> Tensor:
    """How much of each patch the attention carries to the tokens that are read: float32 (S, n), at least 0.

    A block's matrix is half the mean of its heads' weights and half the identity, which stands for the
    residual connection; the product of all up to the layer says from which tokens a token is mixed. Of it the
    rows are taken with the weights by which the head reads them, all rows of a `Reading` counting alike (CLS
    alone, for an encoder without a head). It is the same for all labels that are read alike: it tells what
    is looked at, and nothing of a score.
    """
    blocks = question.model.blocks[: question.layer + 1]
    with explicit_attention(blocks) as seen:
        tokens = question.tokens(question.view)
    read = torch.stack([row.mean(dim=-1) for row in question.reading.weights(tokens)]).mean(dim=0)
    for weights in reversed(seen):
        read = (torch.einsum("st,stu->su", read, weights.mean(dim=1)) + read) / 2
    return read[:, question.reading.prefix :]
