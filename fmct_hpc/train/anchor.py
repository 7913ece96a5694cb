"""The anchor of Gram anchoring: an earlier copy of the teacher's encoder."""

import torch
from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.backbone import Backbone
from fmct_hpc.model.kinds import build_encoder
from fmct_hpc.objective.part import Part
from fmct_hpc.objective.student import Student
from fmct_hpc.train.frozen import Frozen
from fmct_hpc.train.partition import own_part
from fmct_hpc.train.process_group import RankInfo
from fmct_hpc.train.teacher import MeanTeacher


class Anchor(Frozen[Backbone]):
    """Computes patch tokens; changes only at a refresh."""

    def __init__(self, part: Part, config: TrainConfig, student: Student, rank_info: RankInfo) -> None:
        """Copy `student`, as the teacher does at step 0, before DeepSpeed takes it over."""
        encoder = build_encoder(config.model, len(config.data.windows), config.data.view_size)
        encoder.load_state_dict(student.encoder.state_dict())
        super().__init__(encoder, config, rank_info)
        self.part = part
        """The part that it belongs to."""
        self.parameters = {f"encoder.{name}": one for name, one in self.parameters.items()}
        self._prefix = encoder.prefix

    def __call__(self, views: Tensor) -> Tensor:
        """Patch tokens (G, B, n, width) of global views (G, B, C, D, H, W), without masking."""
        tokens: Tensor = self.run(views.flatten(0, 1))
        return tokens[:, self._prefix :].unflatten(0, views.shape[:2])

    @torch.no_grad()
    def refresh(self, teacher: MeanTeacher) -> None:
        """Copy the teacher's current encoder: every rank copies its own slices."""
        mine = [own_part(parameter) for parameter in self.parameters.values()]
        theirs = [own_part(teacher.parameters[name]) for name in self.parameters]
        torch._foreach_copy_(mine, theirs)
