"""What the CLS token looks at."""

from math import prod

import torch
from torch import Tensor, nn

from fmct_hpc.model.block import Block
from fmct_hpc.model.patches import grid_of
from fmct_hpc.model.vit import VisionTransformer


@torch.no_grad()
def cls_attention(encoder: VisionTransformer, views: Tensor) -> Tensor:
    """Attention of the last block's CLS token to the patches: (B, C, D, H, W) -> float32 (B, heads, grid).

    softmax(q·k / √d) over all tokens (Vaswani et al. 2017, equation 1), of which the patches' part is given:
    as in Caron et al. 2021, figure 1; 0 for patches that are not encoded. Works under ZeRO
    stage 3, where every rank must call it.
    """
    seen: list[tuple[Tensor, ...]] = []
    kept = encoder.kept(views)

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs)

    block = encoder.blocks[-1]
    assert isinstance(block, Block)
    last = block.attention
    hook = last.register_forward_pre_hook(keep)
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled blocks call no hooks
            encoder(views, kept)
    finally:
        hook.remove()
    query, key, _ = last.queries_keys_values(*seen[0])
    scores = query[:, :, :1].float() @ key.float().transpose(2, 3) / query.shape[-1] ** 0.5
    weights = scores.softmax(dim=-1)[:, :, 0, encoder.prefix :]
    grid = grid_of(views.shape[2:], encoder.patch_size)
    if kept is not None:
        whole = weights.new_zeros(*weights.shape[:2], prod(grid))
        weights = whole.scatter(2, kept.unsqueeze(1).expand_as(weights), weights)
    return weights.unflatten(-1, grid)
