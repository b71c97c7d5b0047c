"""The losses that follow a teacher, written again as loops over images."""

import math

import pytest
import torch
import torch.nn.functional as F

from eet.embedding import FOLLOWING
from eet.errors import InputError


def smooth_l1(x: float, y: float) -> float:
    return (x - y) ** 2 / 2 if abs(x - y) < 1 else abs(x - y) - 0.5


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def slow_embedding(s, t):
    return mean(smooth_l1(float(a), float(b)) for x, y in zip(s, t, strict=True) for a, b in zip(x, y, strict=True))


def slow_cosine(s, t):
    return mean(1 - float(x @ y) for x, y in zip(s, t, strict=True))


def slow_distance(s, t):
    def relative(x):
        found = {(i, j): float((x[i] - x[j]).norm()) for i in range(len(x)) for j in range(len(x))}
        scale = mean(d for d in found.values() if d > 0)
        return {pair: d / scale for pair, d in found.items()}

    student, teacher = relative(s), relative(t)
    return mean(smooth_l1(student[pair], teacher[pair]) for pair in student)


def slow_angle(s, t):
    def cosine(x, i, j, k):
        first, second = x[i] - x[j], x[i] - x[k]
        return 0.0 if j == i or k == i else float(first @ second / first.norm() / second.norm())

    rows = range(len(s))
    return mean(smooth_l1(cosine(s, i, j, k), cosine(t, i, j, k)) for i in rows for j in rows for k in rows)


def slow_similarity(s, t, temperature=0.1):
    def shares(x, i):
        powers = {j: math.exp(float(x[i] @ x[j]) / temperature) for j in range(len(x)) if j != i}
        return {j: power / sum(powers.values()) for j, power in powers.items()}

    def divergence(i):
        student, teacher = shares(s, i), shares(t, i)
        return sum(p * math.log(p / student[j]) for j, p in teacher.items())

    return temperature**2 * mean(divergence(i) for i in range(len(s)))


SLOW = {
    "embedding": slow_embedding,
    "cosine": slow_cosine,
    "distance": slow_distance,
    "angle": slow_angle,
    "similarity": slow_similarity,
}


def drawn(seed: int, width: int) -> torch.Tensor:
    return F.normalize(torch.randn(6, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


@pytest.mark.parametrize("name", FOLLOWING)
def test_it_is_the_published_formula_and_0_at_the_teacher(name):
    student, teacher = drawn(0, 5), drawn(1, 5)
    assert FOLLOWING[name](student, teacher).item() == pytest.approx(SLOW[name](student, teacher), rel=1e-9)
    assert FOLLOWING[name](teacher, teacher).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", FOLLOWING)
def test_gradients_are_finite_where_an_image_comes_twice(name):
    student = drawn(0, 5)[[0, 0, 1, 2]].requires_grad_()
    FOLLOWING[name](student, drawn(1, 5)[[0, 0, 1, 2]]).backward()
    assert torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0


@pytest.mark.parametrize("name", FOLLOWING)
def test_relations_take_a_teacher_of_another_width(name):
    if name in ("embedding", "cosine"):
        with pytest.raises(InputError, match="student's embedding is 5 wide and the teacher's 7"):
            FOLLOWING[name](drawn(0, 5), drawn(1, 7))
    else:
        assert FOLLOWING[name](drawn(0, 5), drawn(1, 7)).item() == pytest.approx(SLOW[name](drawn(0, 5), drawn(1, 7)), rel=1e-9)
