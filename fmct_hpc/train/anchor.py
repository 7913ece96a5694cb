"""The anchor: the teacher's encoder as it was some time ago, which patch tokens are held to (Gram anchoring).

It is kept as the teacher is: under ZeRO stage 3 it is partitioned, and every rank copies its own slices.
"""

import torch
from torch import Tensor, nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.execution import set_execution
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.student import Student
from fmct_hpc.train.partition import own_part
from fmct_hpc.train.process_group import Place
from fmct_hpc.train.teacher import MeanTeacher, partitioned


class Anchor:
    """Gives patch tokens, and changes at a refresh alone."""

    def __init__(self, config: TrainConfig, student: Student, place: Place) -> None:
        """Copy `student`, as the teacher does at step 0, before it is given to DeepSpeed."""
        module = VisionTransformer(config.model, len(config.data.windows), config.data.view_size)
        module.load_state_dict(student.encoder.state_dict())
        module.to(place.device).requires_grad_(False)
        set_execution(module, config.engine)
        self.parameters = {f"encoder.{name}": one for name, one in module.named_parameters()}
        self._prefix = module.prefix
        self._forward: nn.Module = module.eval()
        if config.engine.zero_stage == 3:
            self._forward = partitioned(module, config)
        self._device_type = place.device.type
        self._autocast = config.engine.precision == "bf16"

    @torch.no_grad()
    def __call__(self, views: Tensor) -> Tensor:
        """Patch tokens (G, B, N, width) of global views (G, B, C, D, H, W), seen whole."""
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._autocast):
            tokens: Tensor = self._forward(views.flatten(0, 1))
        return tokens[:, self._prefix :].unflatten(0, views.shape[:2])

    @torch.no_grad()
    def refresh(self, teacher: MeanTeacher) -> None:
        """Become the teacher's encoder as it is now."""
        mine = [own_part(parameter) for parameter in self.parameters.values()]
        theirs = [own_part(teacher.parameters[name]) for name in self.parameters]
        torch._foreach_copy_(mine, theirs)
