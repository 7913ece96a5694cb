"""Self-distillation of masked patches: iBOT (Zhou et al. 2022, section 3.1)."""

import torch.nn.functional as F
from torch import Tensor


def ibot_loss(
    student_logits: Tensor, teacher_probabilities: Tensor, weights: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy of each masked patch, which the teacher saw and the student did not, weighted.

    student_logits, teacher_probabilities: (M, K); weights: (M,), `Masked.weights`: the mean over a view's
    masked patches, then over all views, those without any counting as 0. Returns a float32 scalar.
    """
    log_student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    return -((teacher_probabilities * log_student).sum(dim=-1) * weights).sum()
