"""A training step with this package's student, teacher, targets and schedules and PyTorch's AdamW.

DeepSpeed with one rank does the same except for its bookkeeping; this allows measurements without it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.views import Views
from fmct_hpc.model.execution import set_execution
from fmct_hpc.objective.draws import draw
from fmct_hpc.objective.student import Student, Teacher
from fmct_hpc.objective.targets import Targets
from fmct_hpc.train.schedules import settings

TINY = {
    **{"width": 48, "depth": 2, "heads": 2, "prototypes": 64, "head_hidden": 64, "head_bottleneck": 32},
    **{"decoder_width": 48, "decoder_depth": 2, "decoder_heads": 2},
}


def configuration(dry: bool, size: str = "B", batch: int = 16, **sections: Mapping[str, Any]) -> TrainConfig:
    """The reference recipe's objective on views of 96³; with `dry` a tiny version, in float32."""
    values: dict[str, dict[str, Any]] = {
        "data": {"path": "unused", "view_size": 24 if dry else 96},
        "model": dict(TINY) if dry else {"size": size},
        "engine": {"device": "cpu" if dry else "gpu", "precision": "fp32" if dry else "bf16"},
        "run": {"batch": batch, "steps": 1000},
    }
    for name, keys in sections.items():
        values.setdefault(name, {}).update(keys)
    return TrainConfig.model_validate(values)


def drawn_views(config: TrainConfig, device: torch.device, seed: int = 0) -> Views:
    """Random views of a batch, created once on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    made = [
        torch.rand(config.run.batch, len(config.data.windows), *size, device=device, generator=generator)
        for size in config.data.view_sizes
    ]
    whole, local = made[: config.data.global_views], made[config.data.global_views :]
    return Views(torch.stack(whole), torch.stack(local) if local else None)


class PlainTraining:
    """Everything that a run updates, in one process."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        torch.manual_seed(config.run.seed)
        self.config, self.device = config, device
        self.student = Student(config).to(device)
        self.teacher = Teacher(config).to(device)
        own = self.student.state_dict()
        self.teacher.load_state_dict({name: own[name] for name in self.teacher.state_dict()})
        for module in (self.student, self.teacher):
            set_execution(module, config.engine)
        self.targets = Targets(config).to(device)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(),
            lr=config.optim.base_lr,
            betas=config.optim.betas,
            fused=device.type == "cuda",
        )
        followed = dict(self.student.named_parameters())
        self._pairs = [(mine, followed[name]) for name, mine in self.teacher.named_parameters()]

    def step(self, number: int, views: Views) -> Tensor:
        """Run step `number`, from 0; returns the loss, detached, on the device."""
        config, now = self.config, settings(self.config, number)
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = now.lr, now.weight_decay
        drawn = draw(config, number, np.arange(config.run.batch)).to(self.device)
        bf16 = config.engine.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            teacher_outputs = self.teacher(views.whole, drawn, now)
            (targets,) = self.targets.of([teacher_outputs], now.teacher_temperature)
            loss = self.student(views, targets, drawn, now).total
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), config.optim.clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.targets.update()
        with torch.no_grad():
            mine, theirs = (list(side) for side in zip(*self._pairs, strict=True))
            torch._foreach_lerp_(mine, theirs, 1 - now.momentum)
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """A copy of the state that a checkpoint would hold."""
        parts = (self.student, self.teacher, self.targets, self.optimizer)
        return {"parts": [_copied(part.state_dict()) for part in parts]}

    def load(self, state: dict[str, Any]) -> None:
        """Restore a result of `state`."""
        student, teacher, targets, optimizer = map(_copied, state["parts"])
        self.student.load_state_dict(student)
        self.teacher.load_state_dict(teacher)
        self.targets.load_state_dict(targets)
        self.optimizer.load_state_dict(optimizer)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: _copied(inner) for name, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def stepping(training: PlainTraining) -> Callable[[], Tensor]:
    """A function that runs the next step of a training, on views that are created once."""
    views, numbers = drawn_views(training.config, training.device), iter(range(10**6))
    return lambda: training.step(next(numbers), views)
