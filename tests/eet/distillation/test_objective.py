"""The objective, compared with its terms computed separately: each network runs alone on plain and on masked images."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eet.distillation import DistillationObjective, HashingObjective, mask_patches, most_important_patches
from eet.vit import PruningSchedule, Student, build_student

BITS, LABELS = 12, 5
TARGETS = torch.where(torch.rand(LABELS, BITS, generator=torch.Generator().manual_seed(1)) < 0.5, -1, 1)


def make(*, pruned: bool, seed: int = 0, bits: int = BITS, **options: Any) -> Student:
    student = build_student(
        "deit_tiny_patch16_224",
        num_classes=LABELS,
        num_bits=bits,
        schedule=PruningSchedule((1, 2), (0.6, 0.5)) if pruned else PruningSchedule((), ()),
        weights="none",
        backbone_options={"img_size": (24, 40), "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, **options},
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in student.parameters():
        if parameter.ndim > 1:  # far from uniform attention, so that teacher and student differ and patches matter
            torch.nn.init.normal_(parameter, std=0.25, generator=generator)
    return student


def pair(**options: Any) -> tuple[Student, Student]:
    return make(pruned=True, seed=0), make(pruned=False, seed=1, **options)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 24, 40, generator=torch.Generator().manual_seed(2))


LABELS_B = torch.tensor([0, 3, 1, 4, 4, 2])


def cross_entropy_slowly(logits: Tensor) -> Tensor:
    return torch.stack([logits[b].logsumexp(0) - logits[b, label] for b, label in enumerate(LABELS_B.tolist())]).mean()


def square_slowly(hashes: Tensor) -> Tensor:
    return torch.stack([(hashes[b] - TARGETS[label]).square().mean() for b, label in enumerate(LABELS_B.tolist())]).mean()


def terms_slowly(student: Student, teacher: Student, images: Tensor, masked_patches: int = 4) -> dict[str, Tensor]:
    """Each term from separate forward passes, one image at a time."""
    taught = [teacher(image[None]) for image in images]
    plain = [student(image[None]) for image in images]
    masked = []
    for image, out in zip(images, taught, strict=True):
        order = sorted(range(15), key=lambda i: -float(out.token_mass[0, i]))  # noqa: B023 (used at once)
        image = image.clone()
        for position in order[:masked_patches]:
            row, column = position // 5, position % 5
            image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
        masked.append(student(image[None]))
    cosines = [F.cosine_similarity(one.hash, other.hash.detach()) for one, other in zip(plain, taught, strict=True)]
    return {
        "teacher_classification": cross_entropy_slowly(torch.cat([out.logits for out in taught])),
        "teacher_hashing": square_slowly(torch.cat([out.hash for out in taught])),
        "classification": cross_entropy_slowly(torch.cat([out.logits for out in plain])),
        "region_guidance": cross_entropy_slowly(torch.cat([out.logits for out in masked])),
        "hashing": square_slowly(torch.cat([out.hash for out in plain])),
        "knowledge_transfer": torch.stack([1 - cosine for cosine in cosines]).mean(),
    }


def total_slowly(terms: dict[str, Tensor], beta: float, sigma: float, *, joint: bool, masked: bool = True) -> Tensor:
    total = beta * (terms["classification"] + (terms["region_guidance"] if masked else 0))
    total = total + terms["hashing"] + sigma * terms["knowledge_transfer"]
    return total + terms["teacher_classification"] + terms["teacher_hashing"] if joint else total


def gradients_of(total: Tensor, *networks: Student) -> list[Tensor | None]:
    parameters = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(total, parameters, allow_unused=True))


def assert_same_gradients(gradients: list[Tensor | None], expected: list[Tensor | None]) -> None:
    largest = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    for one, other in zip(gradients, expected, strict=True):
        assert one is not None and other is not None
        assert (one - other).abs().max() < 1e-5 * largest


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize(("beta", "sigma"), [(0.1, 1.0), (0.7, 0.3), (0.0, 0.0)])
def test_total_and_gradients_equal_separately_computed_terms(images: Tensor, joint: bool, beta: float, sigma: float) -> None:
    student, teacher = pair()
    objective = DistillationObjective(student, teacher, TARGETS, joint=joint, beta=beta, sigma=sigma)
    losses = objective(images, LABELS_B)
    expected = terms_slowly(student, teacher, images)
    assert set(losses.terms) == {name for name in expected if joint or not name.startswith("teacher")}
    for name, value in losses.terms.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, expected[name].detach(), atol=1e-4, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    total = total_slowly(expected, beta, sigma, joint=joint)
    torch.testing.assert_close(losses.total, total, atol=1e-4, rtol=1e-4)
    networks = (student, teacher) if joint else (student,)
    assert_same_gradients(gradients_of(losses.total, *networks), gradients_of(total, *networks))


def test_published_weights_are_the_defaults() -> None:
    objective = DistillationObjective(*pair(), TARGETS, joint=True)
    assert (objective.beta, objective.sigma, objective.masked_patches) == (0.1, 1.0, 4)


@pytest.mark.parametrize("joint", [True, False])
def test_without_masked_patches_the_student_runs_each_image_once(images: Tensor, joint: bool) -> None:
    student, teacher = pair()
    seen: list[int] = []
    student.trunk.patch_embed.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    losses = DistillationObjective(student, teacher, TARGETS, joint=joint, masked_patches=0)(images, LABELS_B)
    assert seen == [6] and "region_guidance" not in losses.terms
    expected = total_slowly(terms_slowly(student, teacher, images), 0.1, 1.0, joint=joint, masked=False)
    torch.testing.assert_close(losses.total, expected, atol=1e-4, rtol=1e-4)


def test_number_of_masked_patches_matters(images: Tensor) -> None:
    student, teacher = pair()
    values = [
        DistillationObjective(student, teacher, TARGETS, joint=True, masked_patches=count)(images, LABELS_B).terms["region_guidance"].item()
        for count in (1, 4, 15)
    ]
    assert len(set(values)) == 3
    assert values[0] == pytest.approx(terms_slowly(student, teacher, images, 1)["region_guidance"].item(), abs=1e-4)


def test_knowledge_transfer_gives_a_joint_teacher_no_gradient(images: Tensor) -> None:
    student, teacher = pair()
    gradients = []
    for sigma in (0.0, 50.0):
        total = DistillationObjective(student, teacher, TARGETS, joint=True, sigma=sigma)(images, LABELS_B).total
        gradients.append(gradients_of(total, teacher))
    for one, other in zip(*gradients, strict=True):
        assert one is not None and other is not None and torch.equal(one, other)


def test_masking_gives_the_teacher_no_gradient(images: Tensor) -> None:
    student, teacher = pair()
    by_itself = gradients_of(HashingObjective(teacher, TARGETS)(images, LABELS_B).total, teacher)
    together = gradients_of(DistillationObjective(student, teacher, TARGETS, joint=True, beta=9.0)(images, LABELS_B).total, teacher)
    assert_same_gradients(together, by_itself)


def test_staged_teacher_is_frozen_in_evaluation_mode(images: Tensor) -> None:
    student, teacher = pair(proj_drop_rate=0.5)  # dropout shows which mode it is in
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    objective = DistillationObjective(student, teacher, TARGETS, joint=False)
    assert student.training and not teacher.training
    for mode in (True, False, True):
        assert objective.train(mode) is objective
        assert student.training == mode and not any(module.training for module in teacher.modules())
    learning = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in learning} == {id(parameter) for parameter in student.parameters()}
    first = objective(images, LABELS_B)
    assert torch.equal(first.total, objective(images, LABELS_B).total)
    first.total.backward()
    torch.optim.SGD(objective.parameters(), lr=0.1).step()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_joint_training_changes_both_networks(images: Tensor) -> None:
    student, teacher = pair()
    objective = DistillationObjective(student, teacher, TARGETS, joint=True)
    assert student.training and teacher.training
    objective.eval()
    assert not teacher.training
    objective.train()
    assert teacher.training
    objective(images, LABELS_B).total.backward()
    for network in (student, teacher):
        assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_a_few_steps_lower_the_total(images: Tensor) -> None:
    objective = DistillationObjective(*pair(), TARGETS, joint=True)
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.01, momentum=0.9)
    totals = []
    for _ in range(25):
        losses = objective(images, LABELS_B)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        totals.append(losses.total.item())
    assert totals[-1] < 0.7 * totals[0]


def test_no_gradients_under_no_grad(images: Tensor) -> None:
    student, teacher = pair()
    needed: list[bool] = []
    for network in (student, teacher):
        network.head_hash.register_forward_hook(lambda module, inputs, output: needed.append(output.requires_grad))
    with torch.no_grad():
        DistillationObjective(student, teacher, TARGETS, joint=True)(images, LABELS_B)
    assert needed == [False, False]


def test_a_teacher_can_be_larger_than_the_student(images: Tensor) -> None:
    student = make(pruned=True)
    teacher = make(pruned=False, seed=1, embed_dim=36, depth=4)
    losses = DistillationObjective(student, teacher, TARGETS, joint=False)(images, LABELS_B)
    torch.testing.assert_close(
        losses.total, total_slowly(terms_slowly(student, teacher, images), 0.1, 1.0, joint=False), atol=1e-4, rtol=1e-4
    )


def test_the_teacher_chooses_the_masked_patches(images: Tensor) -> None:
    student, teacher = pair()
    seen: list[Tensor] = []
    student.trunk.patch_embed.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    DistillationObjective(student, teacher, TARGETS, joint=False)(images, LABELS_B)
    out = teacher(images)
    assert torch.equal(seen[0][:6], images)
    assert torch.equal(seen[0][6:], mask_patches(images, most_important_patches(out.token_mass, out.token_index, 4), (3, 5)))


def test_a_teacher_alone_is_trained_on_labels_and_target_codes(images: Tensor) -> None:
    teacher = make(pruned=False)
    losses = HashingObjective(teacher, TARGETS)(images, LABELS_B)
    out = teacher(images)
    torch.testing.assert_close(losses.terms["teacher_classification"], cross_entropy_slowly(out.logits), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses.terms["teacher_hashing"], square_slowly(out.hash), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses.total, cross_entropy_slowly(out.logits) + square_slowly(out.hash), atol=1e-4, rtol=1e-4)
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in teacher.parameters())


def test_target_codes_move_with_the_module_but_are_not_in_its_weights() -> None:
    for objective in (DistillationObjective(*pair(), TARGETS, joint=True), HashingObjective(make(pruned=False), TARGETS)):
        assert not any("target" in name for name in objective.state_dict())
        assert objective.to(torch.float64).target_codes_Cb.dtype == torch.float64


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        ({"patch_size": 4}, {}, r"patch grid is \(3, 5\) of \(8, 8\) px.*\(6, 10\) of \(4, 4\) px"),
        ({"img_size": (40, 24)}, {}, "the same grid"),
        ({"img_size": (48, 80), "patch_size": 16}, {}, "the same grid"),
        ({"bits": 16}, {}, "student has 12 bits, the teacher 16"),
        ({}, {"beta": -0.1}, "0 or more"),
        ({}, {"sigma": -1.0}, "0 or more"),
        ({}, {"masked_patches": 16}, "use 0 to 15"),
        ({}, {"masked_patches": -1}, "use 0 to 15"),
    ],
)
def test_networks_and_options_that_do_not_fit_are_refused(teacher: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationObjective(make(pruned=True), make(pruned=False, **teacher), TARGETS, joint=True, **options)
