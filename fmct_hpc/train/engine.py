"""The student under DeepSpeed: its configuration, parameter groups, and the update."""

import math
from typing import Any

import deepspeed
import torch
from torch import nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.objective.student import Student
from fmct_hpc.train.process_group import Place
from fmct_hpc.train.schedules import StepSettings

BUCKET = 50_000_000
"""Gradients that are reduced at once. Stage 3 keeps a buffer of this many for good: DeepSpeed's default of
5e8 takes 2 GB of a GPU, whatever the model. ViT-B then has a few buckets, so that the first ones travel
while the backward pass goes on."""


def deepspeed_config(config: TrainConfig, world_size: int, parameters: int) -> dict[str, Any]:
    """DeepSpeed's own configuration for a model of so many parameters.

    Raises FmctError where run.batch can't be shared out evenly.
    """
    accumulation = config.accumulation(world_size)
    return {
        "train_batch_size": config.run.batch,
        "train_micro_batch_size_per_gpu": config.run.batch // (world_size * accumulation),
        "gradient_accumulation_steps": accumulation,
        **deepspeed_settings(config, parameters),
    }


def deepspeed_settings(config: TrainConfig, parameters: int) -> dict[str, Any]:
    """All of that but the batch: ours, and engine.deepspeed laid over it."""
    ours = {
        "gradient_clipping": config.optim.clip,
        "zero_optimization": {
            "stage": config.engine.zero_stage,
            "reduce_bucket_size": min(BUCKET, parameters),
            # Stage 3 else keeps small parameters gathered, as exact in some steps and as bfloat16 in others.
            "stage3_param_persistence_threshold": 0,
            **offload_section(config),
        },
        # torch's AdamW steps on each rank's partition; DeepSpeed's own would compile C++ for the CPU.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **autocast_section(config),
    }
    return _overlaid(ours, config.engine.deepspeed)


def _overlaid(ours: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`ours` with the values of `over`, section by section."""
    merged = dict(ours)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _overlaid(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def offload_section(config: TrainConfig) -> dict[str, Any]:
    """What of zero_optimization lies in host memory; pinned where it goes to and from a GPU."""
    place = {"device": "cpu", "pin_memory": config.engine.device == "gpu"}
    wanted = {
        "offload_optimizer": config.engine.offload_optimizer,
        "offload_param": config.engine.offload_parameters,
    }
    return {section: place for section, on in wanted.items() if on}


def autocast_section(config: TrainConfig) -> dict[str, Any]:
    """bf16 computes and communicates in bfloat16; weights, optimizer and teacher stay float32."""
    if config.engine.precision == "fp32":
        return {}
    return {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}


def parameter_groups(student: nn.Module) -> list[dict[str, Any]]:
    """Two AdamW groups: with weight decay, and without (biases, norms, tokens, positions, prototypes)."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        spare = parameter.ndim < 2 or any(part in name for part in ("token", "positions", "prototypes"))
        (spared if spare else decayed).append(parameter)
    return [{"params": decayed, "decay": True}, {"params": spared, "decay": False, "weight_decay": 0.0}]


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that can be told to pass over a step."""

    sound = True
    """Whether the gradients are fit for an update."""

    def step(self, closure: Any = None) -> Any:
        """As torch's, or nothing at all."""
        return super().step(closure) if self.sound else None


def build_engine(config: TrainConfig, student: Student, place: Place) -> deepspeed.DeepSpeedEngine:
    """Give the student to DeepSpeed; under stage 3 its parameters are empty from here on."""
    optimizer = GuardedAdamW(parameter_groups(student), lr=config.optim.base_lr, betas=config.optim.betas)
    engine, *_ = deepspeed.initialize(
        model=student.to(place.device),
        optimizer=optimizer,
        config=deepspeed_config(config, place.world_size, sum(p.numel() for p in student.parameters())),
        dist_init_required=False,
    )
    return engine


def update(engine: deepspeed.DeepSpeedEngine, now: StepSettings) -> float:
    """Clip the accumulated gradients and update the weights; returns the gradient norm before clipping.

    Where that is not finite nothing is updated: DeepSpeed's ZeRO optimizers see to it themselves, and stage 0
    is told here.
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
