import math

import pytest
import torch

from eet.distillation import knowledge_transfer_loss


def test_values_by_hand() -> None:
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [0.0, -5.0]])
    teacher = torch.tensor([[4.0, 3.0], [0.0, 7.0], [0.5, 0.0], [0.0, 1.0]])
    # cosines: 24/25, 0, 1, -1
    assert knowledge_transfer_loss(student, teacher).item() == pytest.approx((0.04 + 1 + 0 + 2) / 4)


def test_the_loss_equals_a_plain_loop() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 12), torch.randn(7, 12)
    total = 0.0
    for row in range(7):
        a, b = student[row].tolist(), teacher[row].tolist()
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        total += 1 - dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))
    assert knowledge_transfer_loss(student, teacher).item() == pytest.approx(total / 7, rel=1e-5)


def test_only_the_student_gets_a_gradient() -> None:
    student, teacher = torch.randn(3, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    knowledge_transfer_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None and (student.grad.abs().sum(dim=1) > 0).all()
    stepped = student.detach() - 0.5 * student.grad
    assert knowledge_transfer_loss(stepped, teacher) < knowledge_transfer_loss(student, teacher)


def test_length_of_a_hash_does_not_matter() -> None:
    student, teacher = torch.randn(3, 8), torch.randn(3, 8)
    torch.testing.assert_close(knowledge_transfer_loss(5 * student, 0.1 * teacher), knowledge_transfer_loss(student, teacher))


def test_a_hash_of_zeros_gives_no_nan() -> None:
    student = torch.zeros(2, 4, requires_grad=True)
    loss = knowledge_transfer_loss(student, torch.ones(2, 4))
    loss.backward()
    assert loss.item() == 1 and student.grad is not None and torch.isfinite(student.grad).all()
