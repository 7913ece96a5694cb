"""The teacher: the student's exponential moving average, kept as the student is kept.

Weights are float32 under both precisions (bf16 is autocast), so the mean is taken of the very weights that
the optimizer updates. Under ZeRO stage 3 the teacher is partitioned as the student is, and every rank
averages its own slices: no weight is gathered for it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.objective.draws import Draws
from fmct_hpc.objective.student import Student, Teacher
from fmct_hpc.train.frozen import Frozen
from fmct_hpc.train.partition import own_part
from fmct_hpc.train.process_group import Place
from fmct_hpc.train.schedules import StepSettings


class MeanTeacher(Frozen[Teacher]):
    """Gives the targets' logits, and follows the student."""

    def __init__(
        self, config: TrainConfig, student: Student, place: Place, averages: Mapping[str, Tensor]
    ) -> None:
        """Copy `student`, which must not have been given to DeepSpeed: stage 3 empties its tensors.

        averages: by the student's names, what it has of another run's teacher instead.
        """
        teacher = Teacher(config)
        state = {**student.state_dict(), **averages}
        teacher.load_state_dict({name: state[name] for name in teacher.state_dict()})
        super().__init__(teacher, config, place)

    def __call__(self, views: Tensor, draws: Draws, now: StepSettings) -> dict[str, Tensor]:
        """What it says of global views (G, B, C, D, H, W), see `Teacher`."""
        said: dict[str, Tensor] = self.ask(views, draws, now)
        return said

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """teacher = momentum · teacher + (1 - momentum) · student, after the student's update."""
        followed = dict(student.named_parameters())
        mine = [own_part(parameter) for parameter in self.parameters.values()]
        theirs = [own_part(followed[name]) for name in self.parameters]
        torch._foreach_lerp_(mine, theirs, 1 - momentum)
