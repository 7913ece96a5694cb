"""AdamW without torch's compiler equals torch's AdamW."""

import importlib
from typing import Any

import pytest
import torch

from fmct_hpc.optimizer import AdamW
from fmct_hpc.train.muon import import_muon


def trained(kind: type[torch.optim.AdamW], fused: bool) -> list[torch.Tensor]:
    """Weights and moments after some steps with two groups, decay, and a gradient that is sometimes None."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(5, 3, generator=generator).requires_grad_() for _ in range(3)]
    groups: list[dict[str, Any]] = [
        {"params": weights[:1]},
        {"params": weights[1:], "weight_decay": 0.0, "lr": 0.1},
    ]
    optimizer = kind(groups, lr=0.02, betas=(0.9, 0.95), weight_decay=0.3, fused=fused)
    for step in range(7):
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        used = weights if step % 3 else weights[:2]
        torch.stack([((weight - 1) ** 2).sum() for weight in used]).sum().backward()
        assert optimizer.step() is None
        optimizer.zero_grad(set_to_none=step % 2 == 0)
    moments = [value for weight in weights for value in optimizer.state[weight].values()]
    return [weight.detach() for weight in weights] + moments


@pytest.mark.parametrize("fused", [False, True])
def test_updates_equal_torchs_bit_for_bit(fused: bool) -> None:
    ours, theirs = trained(AdamW, fused), trained(torch.optim.AdamW, fused)
    assert len(ours) == len(theirs) == 12
    assert all(map(torch.equal, ours, theirs))


def test_it_steps_with_a_closure_and_hooks_and_keeps_no_graph() -> None:
    weight, seen = torch.ones(2, requires_grad=True), []
    optimizer = AdamW([weight], lr=0.1)
    optimizer.register_step_post_hook(lambda *_: seen.append(torch.is_grad_enabled()))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert seen == [True]
    assert weight.is_leaf
    assert (weight < 1).all()
    optimizer.zero_grad()
    assert weight.grad is None
    with pytest.raises(ValueError, match="appear"):
        optimizer.add_param_group({"params": [weight]})


def test_importing_muon_restores_the_compiler() -> None:
    from deepspeed.runtime import compiler

    before = compiler.compile
    import_muon()
    muon = importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    assert issubclass(muon.MuonWithAuxAdam, torch.optim.Optimizer)
    assert compiler.compile is before


def test_a_deepspeed_without_muon_or_that_function_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.runtime import compiler

    monkeypatch.setattr("fmct_hpc.train.muon.MODULE", "deepspeed.no_muon")
    import_muon()
    monkeypatch.delattr(compiler, "compile")
    import_muon()
    assert not hasattr(compiler, "compile")
