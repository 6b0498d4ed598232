"""The loss of WAND fine-tuning: cross-entropy on the ground truth and a skewed KL divergence to the teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""The target of a position that is not learned from."""


@dataclass(frozen=True)
class Loss:
    """Means over the positions that are learned from; `total` = cross_entropy + kl_weight x kl."""

    total: Tensor
    cross_entropy: Tensor
    kl: Tensor


def skewed_kl(teacher: Tensor, student: Tensor, skew: float) -> Tensor:
    """KL(p || skew p + (1 - skew) q) of two rows of logits [N, V], float32 [N].

    With skew 0 it is the plain divergence; above it, the student's gradient stays bounded where the teacher is
    sure and the student is not (DistiLLM, arXiv 2402.03898).
    """
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    if skew == 0:
        mixture = q
    else:
        logs = torch.tensor([skew, 1 - skew], device=p.device).log()
        mixture = torch.logaddexp(p + logs[0], q + logs[1])
    return (p.exp() * (p - mixture)).sum(-1)


def distillation_loss(student: Tensor, teacher: Tensor, targets: Tensor, kl_weight: float, skew: float) -> Loss:
    """Loss of logits [B, T, V] against targets int64 [B, T]; a target of IGNORED leaves its position out."""
    wanted = targets != IGNORED
    student, teacher = student[wanted].float(), teacher[wanted].float()
    cross_entropy = functional.cross_entropy(student, targets[wanted])
    kl = skewed_kl(teacher, student, skew).mean()
    return Loss(cross_entropy + kl_weight * kl, cross_entropy, kl)
