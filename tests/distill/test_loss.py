"""The divergence and the loss, against their definitions."""

import pytest
import torch

from wand_export.distill.loss import IGNORED, distillation_loss, skewed_kl


@pytest.mark.parametrize("skew", [0.0, 0.1, 0.9])
def test_skewed_kl_is_its_definition(skew: float) -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(4, 7), torch.randn(4, 7)
    p, q = teacher.softmax(-1), student.softmax(-1)
    expected = (p * (p / (skew * p + (1 - skew) * q)).log()).sum(-1)
    assert torch.allclose(skewed_kl(teacher, student, skew), expected, atol=1e-6)


def test_skewed_kl_of_equals_is_zero() -> None:
    logits = torch.randn(3, 5)
    assert skewed_kl(logits, logits, 0.1).abs().max() < 1e-6


def test_ignored_positions_do_not_count() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 4, 6), torch.randn(1, 4, 6)
    targets = torch.tensor([[IGNORED, 2, 5, IGNORED]])
    loss = distillation_loss(student, teacher, targets, kl_weight=0.5, skew=0.1)
    kept = distillation_loss(student[:, 1:3], teacher[:, 1:3], targets[:, 1:3], kl_weight=0.5, skew=0.1)
    assert loss.total.item() == pytest.approx(kept.total.item())
    assert loss.total.item() == pytest.approx((loss.cross_entropy + 0.5 * loss.kl).item())
