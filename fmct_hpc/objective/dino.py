"""Self-distillation of the CLS token: DINO (Caron et al. 2021, algorithm 1)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def dino_loss(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher's view and another view of the student.

    student_logits: (V, B, K), the global views first; teacher_probabilities: (G, B, K). Returns a float32
    scalar.
    """
    log_student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    views, teachers = len(log_student), len(teacher_probabilities)
    with torch.autocast(log_student.device.type, enabled=False):  # it would multiply in bfloat16
        pairs = -torch.einsum("gbk,vbk->gv", teacher_probabilities, log_student) / log_student.shape[1]
    same = torch.eye(teachers, views, dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(same, 0).sum() / (teachers * views - teachers)


@torch.no_grad()
def health(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> dict[str, Tensor]:
    """Signs of collapse, as 0-d float32 tensors.

    Entropies in nats: log K for both is collapse to uniform, 0 is collapse to one prototype. Divergence:
    KL(teacher || student) over all pairs of views, 0 where the output is always the same (Caron et al. 2021,
    section 5.3). Prototypes in use: how many are some view's most probable one, over all ranks.
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher_entropy = torch.special.entr(teacher_probabilities).sum(dim=-1).mean()
    cross_entropy = -torch.einsum("gbk,vbk->gvb", teacher_probabilities, student).mean()
    return {
        "teacher_entropy": teacher_entropy,
        "student_entropy": -(student.exp() * student).sum(dim=-1).mean(),
        "divergence": cross_entropy - teacher_entropy,
        "prototypes_used": _distinct(teacher_probabilities.argmax(dim=-1)),
    }


def _distinct(numbers: Tensor) -> Tensor:
    """How many different ones there are among all ranks' numbers, of which each has as many; 0-d float32."""
    if dist.is_initialized():
        gathered = [torch.empty_like(numbers) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, numbers)
        numbers = torch.stack(gathered)
    return torch.tensor(float(numbers.unique().numel()), device=numbers.device)


@torch.no_grad()
def feature_deviation(features: Tensor) -> Tensor:
    """Standard deviation of normalised features (..., width) over rows, mean over the width, times √width.

    Near 1 where features spread over the sphere, 0 where all are one (Chen and He 2021, section 4.1). Rows
    are those of all ranks, which must all call it: one rank may hold no more than two views of one volume.
    """
    rows = F.normalize(features.double().flatten(0, -2), dim=-1)
    moments = torch.cat([rows.sum(dim=0), rows.square().sum(dim=0), rows.new_tensor([float(len(rows))])])
    if dist.is_initialized():
        dist.all_reduce(moments)
    mean, square = (moments[:-1] / moments[-1]).chunk(2)
    return ((square - mean.square()).clamp(min=0).sqrt().mean() * rows.shape[-1] ** 0.5).float()
