"""A step of one batch with smaller local views and a bf16 residual stream; attention by each kernel."""

from contextlib import nullcontext

import torch
from measure import Measurement
from part_step import timed
from plain_training import PlainTraining, configuration, stepping
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

BATCH, TOY_BATCH = 64, 2


def measure(m: Measurement) -> None:
    """Rows to compare with the same batch's float32 residual stream and local views of 96³."""
    batch, compile_it = TOY_BATCH if m.dry else BATCH, {"compile": not m.dry}
    timed(m, configuration(m.dry, batch=batch, engine=compile_it), "as the reference recipe")
    for edge in (12,) if m.dry else (60, 48):
        config = configuration(m.dry, batch=batch, engine=compile_it, data={"local_view_size": edge})
        timed(m, config, f"local views of {edge}³")
    for narrow in (False, True):
        config = configuration(m.dry, batch=batch, engine={"precision": "bf16"})
        training = PlainTraining(config, m.device)
        if narrow:
            for encoder in (training.student.encoder, training.teacher.encoder):
                encoder.blocks[0].register_forward_pre_hook(_to_bf16)
        step = stepping(training)
        m.forget()
        ms = m.ms(step)
        m.add(residual="bfloat16" if narrow else "float32", batch=batch, ms=ms, loss=step().item())
    _attention(m)


def _to_bf16(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return arguments[0].bfloat16(), *arguments[1:]


def _attention(m: Measurement) -> None:
    """scaled_dot_product_attention of ViT-B's 521 tokens by each backend, forward and backward."""
    tokens, heads, batch = (32, 2, 2) if m.dry else (521, 12, 256)
    kinds = [
        SDPBackend.MATH,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
    ]
    for kind in (None, *kinds):
        q, k, v = (
            torch.randn(batch, heads, tokens, 64, device=m.device, dtype=torch.bfloat16, requires_grad=True)
            for _ in range(3)
        )

        def work(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> None:
            nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()

        try:
            with nullcontext() if kind is None else sdpa_kernel(kind):
                ms: float | None = m.ms(work)
        except RuntimeError:
            ms = None
        m.add(attention="chosen by PyTorch" if kind is None else kind.name.lower(), batch=batch, ms=ms)
