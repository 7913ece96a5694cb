"""DINO self-distillation (Caron et al. 2021, algorithm 1)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class DinoTargets(nn.Module):
    """Turns the teacher's logits into targets: centred, then sharpened."""

    center: Tensor

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """softmax((logits - centre) / temperature), float32, over the last dimension."""
        return F.softmax((logits.float() - self.center) / temperature, dim=-1)

    @torch.no_grad()
    def update(self, logits: Tensor) -> None:
        """Move the centre towards the mean of `logits`, (..., K), over all ranks (equation 4)."""
        rows = logits.float().flatten(0, -2)
        total = torch.cat([rows.sum(dim=0), rows.new_tensor([float(len(rows))])])
        if dist.is_initialized():
            dist.all_reduce(total)
        self.center.lerp_(total[:-1] / total[-1], 1 - self.momentum)


def dino_loss(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher's view and another view of the student.

    student_logits: (V, B, K), the global views first; teacher_probabilities: (G, B, K). Returns a float32
    scalar.
    """
    log_student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    views, teachers = len(log_student), len(teacher_probabilities)
    pairs = -torch.einsum("gbk,vbk->gv", teacher_probabilities, log_student) / log_student.shape[1]
    same = torch.eye(teachers, views, dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(same, 0).sum() / (teachers * views - teachers)


@torch.no_grad()
def health(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> dict[str, Tensor]:
    """Signs of collapse, as 0-d float32 tensors.

    Entropies in nats: log K for both is collapse to uniform, 0 is collapse to one prototype. Prototypes in
    use: how many are some view's most probable one.
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    used = teacher_probabilities.argmax(dim=-1).unique().numel()
    return {
        "teacher_entropy": torch.special.entr(teacher_probabilities).sum(dim=-1).mean(),
        "student_entropy": -(student.exp() * student).sum(dim=-1).mean(),
        "prototypes_used": torch.tensor(float(used), device=student.device),
    }
