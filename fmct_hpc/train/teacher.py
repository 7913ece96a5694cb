"""The teacher: the student's exponential moving average, stored as the student is.

Weights are float32 in both precisions (bf16 is autocast), so the average is of the weights that the optimizer
updates. Under ZeRO stage 3 the teacher is partitioned like the student and every rank averages its own
slices, without gathering weights.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.objective.draws import Draws
from fmct_hpc.objective.student import Student, Teacher
from fmct_hpc.train.frozen import Frozen
from fmct_hpc.train.partition import own_part
from fmct_hpc.train.process_group import RankInfo
from fmct_hpc.train.schedules import StepSettings


class MeanTeacher(Frozen[Teacher]):
    """Computes the logits of the targets; follows the student."""

    def __init__(
        self, config: TrainConfig, student: Student, rank_info: RankInfo, averages: Mapping[str, Tensor]
    ) -> None:
        """Copy `student` before DeepSpeed takes it over: stage 3 empties its tensors.

        averages: weights of another run's teacher, by the student's names, used instead of the student's.
        """
        teacher = Teacher(config)
        state = {**student.state_dict(), **averages}
        teacher.load_state_dict({name: state[name] for name in teacher.state_dict()})
        super().__init__(teacher, config, rank_info)

    def __call__(self, views: Tensor, draws: Draws, now: StepSettings) -> dict[str, Tensor]:
        """Outputs for global views (G, B, C, D, H, W) by part, see `Teacher`."""
        outputs: dict[str, Tensor] = self.run(views, draws, now)
        return outputs

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """teacher = momentum · teacher + (1 - momentum) · student, after the student's update."""
        followed = dict(student.named_parameters())
        mine = [own_part(parameter) for parameter in self.parameters.values()]
        theirs = [own_part(followed[name]) for name in self.parameters]
        torch._foreach_lerp_(mine, theirs, 1 - momentum)
