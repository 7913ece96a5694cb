"""The student under DeepSpeed: its configuration, parameter groups, and the update."""

import math
from typing import Any

import deepspeed
import torch
from torch import nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.objective.student import Student
from fmct_hpc.optimizer import AdamW
from fmct_hpc.train.muon import import_muon
from fmct_hpc.train.process_group import RankInfo
from fmct_hpc.train.schedules import StepSettings

BUCKET = 50_000_000
"""Gradients reduced per bucket. Stage 3 permanently holds a buffer of this size: DeepSpeed's default of 5e8
takes 2 GB of GPU memory for any model. ViT-B has a few buckets, so that communication overlaps the backward
pass."""


def deepspeed_config(config: TrainConfig, world_size: int, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a model of that many parameters.

    Raises FmctError where the ranks do not divide run.batch.
    """
    accumulation = config.accumulation(world_size)
    return {
        "train_batch_size": config.run.batch,
        "train_micro_batch_size_per_gpu": config.run.batch // (world_size * accumulation),
        "gradient_accumulation_steps": accumulation,
        **deepspeed_settings(config, parameters),
    }


def deepspeed_settings(config: TrainConfig, parameters: int) -> dict[str, Any]:
    """The configuration without the batch: our settings, overridden by engine.deepspeed."""
    ours = {
        "gradient_clipping": config.optim.clip,
        "zero_optimization": {
            "stage": config.engine.zero_stage,
            "reduce_bucket_size": min(BUCKET, parameters),
            # Otherwise stage 3 keeps small parameters gathered, exact in some steps and bfloat16 in others.
            "stage3_param_persistence_threshold": 0,
            **offload_section(config),
        },
        # torch's AdamW updates each rank's partition; DeepSpeed's own would compile C++ for the CPU.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **autocast_section(config),
    }
    return _overlaid(ours, config.engine.deepspeed)


def _overlaid(ours: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`ours` with the values of `over`, merged recursively."""
    merged = dict(ours)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _overlaid(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def offload_section(config: TrainConfig) -> dict[str, Any]:
    """The sections of zero_optimization for host memory, which is pinned for transfers to a GPU."""
    place = {"device": "cpu", "pin_memory": config.engine.device == "gpu"}
    enabled = {
        "offload_optimizer": config.engine.offload_optimizer,
        "offload_param": config.engine.offload_parameters,
    }
    return {section: place for section, on in enabled.items() if on}


def autocast_section(config: TrainConfig) -> dict[str, Any]:
    """bf16 computes and communicates in bfloat16; weights, optimizer and teacher stay float32."""
    if config.engine.precision == "fp32":
        return {}
    return {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}


def parameter_groups(student: nn.Module) -> list[dict[str, Any]]:
    """Two AdamW groups: with weight decay, and without (biases, norms, tokens, positions, prototypes)."""
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        exempt = parameter.ndim < 2 or any(part in name for part in ("token", "positions", "prototypes"))
        (undecayed if exempt else decayed).append(parameter)
    return [{"params": decayed, "decay": True}, {"params": undecayed, "decay": False, "weight_decay": 0.0}]


class GuardedAdamW(AdamW):
    """AdamW that can skip a step."""

    sound = True
    """Whether the gradients are finite, so that `step` updates."""

    def step(self, closure: Any = None) -> Any:
        """As torch's if `sound`, else nothing."""
        return super().step(closure) if self.sound else None


def build_engine(config: TrainConfig, student: Student, rank_info: RankInfo) -> deepspeed.DeepSpeedEngine:
    """Wrap the student in a DeepSpeed engine; under stage 3 its parameters are empty from then on."""
    optimizer = GuardedAdamW(parameter_groups(student), lr=config.optim.base_lr, betas=config.optim.betas)
    import_muon()
    engine, *_ = deepspeed.initialize(
        model=student.to(rank_info.device),
        optimizer=optimizer,
        config=deepspeed_config(config, rank_info.world_size, sum(p.numel() for p in student.parameters())),
        dist_init_required=False,
    )
    return engine


def update(engine: deepspeed.DeepSpeedEngine, now: StepSettings) -> float:
    """Clip the accumulated gradients and update the weights; returns the gradient norm before clipping.

    If the norm is not finite nothing is updated: DeepSpeed's ZeRO optimizers check it themselves, for stage 0
    it is checked here.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = now.lr
        group["weight_decay"] = now.weight_decay if group["decay"] else 0.0
    if not engine.zero_optimization():
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))  # stage 0 reports none
        engine.optimizer.sound = math.isfinite(norm)
        engine.step()
        return norm
    engine.step()
    return math.inf if engine.optimizer.overflow else float(engine.get_global_grad_norm())
