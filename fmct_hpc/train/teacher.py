"""The teacher: the student's exponential moving average, kept as the student is kept.

Weights are float32 under both precisions (bf16 is autocast), so the mean is taken of the very weights that
the optimizer updates. Under ZeRO stage 3 the teacher is partitioned as the student is, and every rank
averages its own slices: no weight is gathered for it.
"""

from collections.abc import Mapping

import deepspeed
import torch
from torch import Tensor, nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.execution import set_execution
from fmct_hpc.objective.draws import Draws
from fmct_hpc.objective.student import Student, Teacher
from fmct_hpc.train.engine import autocast_section, offload_section
from fmct_hpc.train.partition import own_part
from fmct_hpc.train.process_group import Place
from fmct_hpc.train.schedules import StepSettings


class MeanTeacher:
    """Gives the targets' logits, and follows the student."""

    def __init__(
        self, config: TrainConfig, student: Student, place: Place, averages: Mapping[str, Tensor]
    ) -> None:
        """Copy `student`, which must not have been given to DeepSpeed: stage 3 empties its tensors.

        averages: by the student's names, what it has of another run's teacher instead.
        """
        self.module = Teacher(config).to(place.device)
        state = {**student.state_dict(), **averages}
        self.module.load_state_dict({name: state[name] for name in self.module.state_dict()})
        set_execution(self.module, config.engine)
        self.parameters = dict(self.module.named_parameters())
        self._forward: nn.Module = self.module.eval()
        if config.engine.zero_stage == 3:
            self._forward = partitioned(self.module, config)
        self._device_type = place.device.type
        self._autocast = config.engine.precision == "bf16"

    @torch.no_grad()
    def __call__(self, views: Tensor, draws: Draws, now: StepSettings) -> dict[str, Tensor]:
        """What it says of global views (G, B, C, D, H, W), see `Teacher`."""
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._autocast):
            said: dict[str, Tensor] = self._forward(views, draws, now)
        return said

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """teacher = momentum · teacher + (1 - momentum) · student, after the student's update."""
        followed = dict(student.named_parameters())
        mine = [own_part(parameter) for parameter in self.parameters.values()]
        theirs = [own_part(followed[name]) for name in self.parameters]
        torch._foreach_lerp_(mine, theirs, 1 - momentum)


def partitioned(module: nn.Module, config: TrainConfig) -> nn.Module:
    """The module under a stage 3 engine without optimizer, which gathers a layer only while it runs."""
    sections = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {
            "stage": 3,
            **{name: place for name, place in offload_section(config).items() if name == "offload_param"},
            # Nothing may stay gathered after the forward pass: it would not see the next update.
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
        },
        **autocast_section(config),
    }
    engine, *_ = deepspeed.initialize(model=module, config=sections, dist_init_required=False)
    engine.eval()
    return engine
