"""Rollout through a pruned student against a plain loop over one image, its blocks and its patches."""

import pytest
import timm
import torch

from eet.matching import attention_rollout, forward_with_rollout, rollout_mass
from eet.vit import PruningSchedule, Student, preprocessing_of


def tiny_student(prune_after=(), keep_ratios=(), **options):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    trunk = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=16, embed_dim=32, depth=4, num_heads=4, num_classes=3, **options
    )
    schedule = PruningSchedule(prune_after, keep_ratios)
    return Student(trunk, num_bits=8, schedule=schedule, preprocessing=preprocessing_of(trunk)).eval()


def slow_mass(student, image, discard):  # type: ignore[no-untyped-def]
    """The blocks by hand, with the places that the student kept; rolled is a table from (living token, original token) to a share."""
    trunk, prefix = student.trunk, student.trunk.num_prefix_tokens
    output = student(image[None])
    stages = dict(zip(student.schedule.prune_after, output.kept, strict=True))
    tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(image[None])))
    names = list(range(-prefix, student.num_patches))  # below 0: prefix tokens
    rolled = {name: {name: 1.0} for name in names}
    for number, block in enumerate(trunk.blocks, start=1):
        attn = block.attn
        q, k, _ = attn.qkv(block.norm1(tokens))[0].chunk(3, dim=1)
        heads = []
        for q_h, k_h in zip(q.chunk(attn.num_heads, dim=1), k.chunk(attn.num_heads, dim=1), strict=True):
            heads.append((attn.q_norm(q_h) @ attn.k_norm(k_h).T * attn.scale).softmax(dim=1))
        least = torch.stack(heads).min(dim=0).values
        entries = sorted((float(least[i, j]), i, j) for i in range(prefix, len(names)) for j in range(prefix, len(names)))
        for _, i, j in entries[: int(discard * len(entries))]:
            least[i, j] = 0
        step = least + torch.eye(len(names))
        step = step / step.sum(dim=1, keepdim=True)
        table = {}
        for i, name in enumerate(names):
            row = dict.fromkeys(range(-prefix, student.num_patches), 0.0)
            for j, other in enumerate(names):
                for source, share in rolled[other].items():
                    row[source] += float(step[i, j]) * share
            table[name] = row
        rolled, tokens = table, block(tokens)
        if number in stages:
            living = [name for name in names if name < 0 or name in stages[number][0].tolist()]
            tokens = tokens[:, [names.index(name) for name in living]]
            names = living
    kept = output.token_index[0].tolist()
    mass = torch.tensor([sum(rolled[looks][place] for looks in kept) for place in kept])
    return mass / mass.sum()


@torch.no_grad()
@pytest.mark.parametrize(
    ("prune_after", "keep_ratios", "options"),
    [((), (), {}), ((1, 3), (0.5, 0.5), {}), ((2, 4), (0.5, 0.75), {"reg_tokens": 2}), ((1, 2), (1.0, 0.5), {"qk_norm": True})],
)
def test_mass_equals_the_slow_loop_and_depends_on_its_image_alone(prune_after, keep_ratios, options) -> None:  # type: ignore[no-untyped-def]
    student = tiny_student(prune_after, keep_ratios, **options)
    images = torch.randn(3, 3, 64, 64)
    mass = rollout_mass(student, images, discard=0.2)
    assert mass.shape == (3, student.token_shape[0]) and mass.dtype == torch.float32
    torch.testing.assert_close(mass.sum(dim=1), torch.ones(3))
    for image, row in zip(images, mass, strict=True):
        torch.testing.assert_close(row, slow_mass(student, image, 0.2), atol=1e-5, rtol=1e-4)


def test_without_pruning_it_is_the_rollout_of_the_trunk() -> None:
    student, images = tiny_student(), torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(rollout_mass(student, images), attention_rollout(student.trunk, images), atol=1e-6, rtol=1e-4)


def test_a_bfloat16_pass_gives_nearly_the_same_mass() -> None:
    student, images = tiny_student((1, 3), (0.5, 0.5), qk_norm=True), torch.randn(2, 3, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        output, mass = forward_with_rollout(student, images)
    assert mass.dtype == torch.float32
    same_B = (output.token_index == student(images).token_index).all(dim=1)
    assert same_B.any()
    torch.testing.assert_close(mass[same_B], rollout_mass(student, images)[same_B], atol=0.01, rtol=0)


def test_the_output_is_that_of_the_student_and_no_hook_stays() -> None:
    student, images = tiny_student((2,), (0.5,)), torch.randn(2, 3, 64, 64)
    output, mass = forward_with_rollout(student, images)
    expected = student(images)
    for name in ("hash", "tokens", "token_index", "token_mass"):
        assert torch.equal(getattr(output, name), getattr(expected, name))
    assert not torch.allclose(mass, output.token_mass)
    with pytest.raises(AssertionError):
        rollout_mass(student, torch.randn(1, 3, 32, 32))
    assert not any(block.attn.qkv._forward_hooks for block in student.trunk.blocks)


def test_wrong_arguments_are_refused() -> None:
    images = torch.zeros(1, 3, 64, 64)
    options = {"img_size": 64, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 3, "global_pool": "token"}
    rotary = timm.create_model("vit_small_patch16_dinov3", **options)
    with pytest.raises(ValueError, match="ResNet is no student"):
        rollout_mass(timm.create_model("resnet10t").eval(), images)
    with pytest.raises(ValueError, match="EvaAttention, which rotates.*importance"):
        rollout_mass(Student(rotary, num_bits=8, schedule=PruningSchedule((), ()), preprocessing=preprocessing_of(rotary)).eval(), images)
    with pytest.raises(ValueError, match="discard"):
        rollout_mass(tiny_student(), images, discard=1.0)
    with pytest.raises(ValueError, match="eval"):
        rollout_mass(tiny_student().train(), images)
