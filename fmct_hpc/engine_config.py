"""The configuration of the training engine: DeepSpeed, device and precision."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shards.section import Section

_NOT_TO_SET = {
    "train_batch_size": "set run.batch",
    "train_micro_batch_size_per_gpu": "set engine.micro_batch",
    "gradient_accumulation_steps": "set engine.micro_batch",
    "gradient_clipping": "set optim.clip",
    "optimizer": "set optim",
    "scheduler": "set optim",
    "stage": "set engine.zero_stage",
    "offload_optimizer": "set engine.offload_optimizer",
    "offload_param": "set engine.offload_parameters",
    "fp16": "set engine.precision",
    "bf16": "set engine.precision",
    "torch_autocast": "set engine.precision",
    "round_robin_gradients": "checkpoints do not support its placement of parameters",
}
"""DeepSpeed keys that follow from ours or that our checkpoints do not support, with the remedy or reason."""


class EngineConfig(Section):
    """The engine: DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """2 shards optimizer and gradients; ViT-B's weights fit any GPU, so 3 is for larger ones."""
    offload_optimizer: bool = False
    """Keep optimizer state and master weights in host memory; for stages 1 to 3."""
    offload_parameters: bool = False
    """Keep the weights of student and teacher in host memory too; for stage 3."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16 computes and communicates in bfloat16; weights and optimizer state are float32 in both."""
    device: Literal["cpu", "gpu"] = "gpu"
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Maximum volumes per rank and pass; a greater share of run.batch is accumulated over micro-batches."""
    activation_checkpointing: bool = False
    """Keep only the blocks' inputs and recompute the rest in the backward pass (Chen et al. 2016): activation
    memory of one block instead of all, for about a third more computation."""
    compile: bool = False
    """torch.compile each block: fewer passes over memory on a GPU. Requires a C++ compiler."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed configuration that overrides ours, for options without a key here."""

    @model_validator(mode="after")
    def _stage_has_feature(self) -> "EngineConfig":
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("engine.offload_optimizer needs engine.zero_stage of at least 1")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError("engine.offload_parameters needs engine.zero_stage=3")
        zero = self.deepspeed.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError("engine.deepspeed: zero_optimization must be a section, {key: value}")
        for key, remedy in _NOT_TO_SET.items():
            if key in self.deepspeed or key in zero:
                raise ValueError(f"engine.deepspeed must not set {key}; {remedy}")
        return self
