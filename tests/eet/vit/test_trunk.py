"""Families of timm's ViTs: rotary positions, registers, models without CLS. Compared with timm, and with a loop that drops tokens after
each whole block.
"""

from typing import Any

import pytest
import timm
import torch
from timm.models.eva import Eva
from torch import Tensor, nn

from eet.vit import PruningSchedule, Student, build_student, load_bundle, save_bundle

NO_PRUNING = PruningSchedule((), ())
STAGES = PruningSchedule((1, 2, 3), (0.7, 0.6, 0.5))
SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 3, "num_heads": 2}

ROTARY: dict[str, tuple[dict[str, Any], str]] = {
    "vit_small_patch16_dinov3": ({}, "token"),
    "vit_small_plus_patch16_dinov3": ({}, "token"),
    "vit_small_patch16_dinov3_qkvb": ({}, "token"),
    "vit_small_patch16_lingbot": ({}, "token"),
    "vit_pe_core_tiny_patch16_384": ({}, "map"),
    "vit_pe_spatial_tiny_patch16_512": ({}, "avg"),
    "eva02_tiny_patch14_224": ({"patch_size": 16}, "avg"),
    "eva02_base_patch14_224": ({"patch_size": 16}, "avg"),
    "eva02_base_patch16_clip_224": ({}, "token"),
    "eva_giant_patch14_224": ({"patch_size": 16}, "avg"),
    "vit_small_patch16_rope_224": ({}, "token"),
    "vit_small_patch16_rope_mixed_224": ({}, "token"),
    "vit_small_patch16_rope_mixed_ape_224": ({}, "token"),
    "vit_medium_patch16_rope_reg1_gap_256": ({}, "avg"),
    "vit_base_patch16_sapiens2": ({"num_heads": 4, "num_kv_heads": (4, 2, 1), "qk_norm": True}, "token"),
}
"""Name -> (options, expected pooling)."""
WITHOUT_CLS: dict[str, tuple[dict[str, Any], str]] = {
    "vit_base_patch16_siglip_256": ({}, "map"),
    "vit_base_patch16_siglip_gap_256": ({}, "avg"),
    "vit_base_patch16_gap_224": ({}, "avg"),
    "vit_medium_patch16_reg1_gap_256": ({}, "avg"),
    "vit_so150m_patch16_reg4_map_256": ({}, "map"),
    "aimv2_large_patch14_224": ({"patch_size": 16}, "avg"),
}
FAMILIES = {**ROTARY, **WITHOUT_CLS, "beit3_base_patch16_224": ({}, "avg")}


def make_student(backbone: str, schedule: PruningSchedule, image: tuple[int, int] = (64, 96), **options: Any) -> Student:
    given = {**SMALL, **FAMILIES[backbone][0], "img_size": image, **options}
    student = build_student(backbone, num_classes=5, num_bits=12, schedule=schedule, weights="none", backbone_options=given)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in student.named_parameters():
        if parameter.ndim > 1:  # an untrained ViT attends almost uniformly, which would hide a wrong choice of patches
            nn.init.normal_(parameter, std=0.25, generator=generator)
        elif "gamma" in name or "_bias" in name or name.endswith("bias"):
            nn.init.uniform_(parameter, 0.1, 0.8, generator=generator)
    return student.eval()


def images_for(student: Student, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *student.preprocessing.image_size, generator=torch.Generator().manual_seed(0))


def plain_queries_keys_values(attn: Any, normed_ND: Tensor) -> list[list[Tensor]]:
    """For queries, keys and values: (N, d) of each head, before rotation."""
    heads = attn.num_heads
    if attn.qkv is None:
        parts = [attn.q_proj(normed_ND), attn.k_proj(normed_ND), attn.v_proj(normed_ND)]
    else:
        parts = list((normed_ND @ attn.qkv.weight.T).chunk(3, dim=-1))
        if getattr(attn, "q_bias", None) is not None:
            parts = [parts[0] + attn.q_bias, parts[1], parts[2] + attn.v_bias]
        elif attn.qkv.bias is not None:
            parts = [part + bias for part, bias in zip(parts, attn.qkv.bias.chunk(3), strict=True)]
    width = parts[0].shape[1] // heads
    split = [list(part.split(width, dim=1)) for part in parts]
    split[0] = [attn.q_norm(head) for head in split[0]]
    split[1] = [attn.k_norm(head) for head in split[1]]
    return [[part[number * len(part) // heads] for number in range(heads)] for part in split]


def plain_rotation(tokens_nd: Tensor, positions_nC: Tensor, half: bool) -> Tensor:
    """Each pair of numbers turned by its angle. half: pairs are (i, i + d / 2), else (2 i, 2 i + 1)."""
    d = tokens_nd.shape[1]
    out = torch.empty_like(tokens_nd)
    for i in range(d // 2):
        a, b = (i, i + d // 2) if half else (2 * i, 2 * i + 1)
        sine, cosine = positions_nC[:, a], positions_nC[:, d + a]
        out[:, a] = tokens_nd[:, a] * cosine - tokens_nd[:, b] * sine
        out[:, b] = tokens_nd[:, b] * cosine + tokens_nd[:, a] * sine
    return out


def plain_importance(attn: Any, normed_ND: Tensor, rope: Tensor | None, num_prefix: int, with_cls: bool) -> list[float]:
    queries, keys, values = plain_queries_keys_values(attn, normed_ND)
    weighted, norms = [], []
    for number in range(attn.num_heads):
        q, k, v = queries[number], keys[number], values[number]
        if rope is not None:
            table = rope[number] if rope.ndim == 3 else rope
            q = torch.cat([q[:num_prefix], plain_rotation(q[num_prefix:], table, attn.rotate_half)])
            k = torch.cat([k[:num_prefix], plain_rotation(k[num_prefix:], table, attn.rotate_half)])
        attention = (q @ k.T / q.shape[1] ** 0.5).softmax(dim=1)
        weighted.append((attention[0] if with_cls else attention[num_prefix:].mean(dim=0))[num_prefix:])
        norms.append((attention @ v)[num_prefix:].norm(dim=1))
    total = torch.stack(norms).sum(dim=0) + 1e-8
    return sum(norm / total * row for norm, row in zip(norms, weighted, strict=True)).tolist()


def plain_forward(student: Student, image_CHW: Tensor) -> dict[str, Any]:
    """One image through timm's own blocks, its patches dropped after each whole block, then timm's own pooling."""
    trunk: Any = student.trunk
    x, table = trunk.patch_embed(image_CHW[None]), None
    x = trunk._pos_embed(x)
    if isinstance(x, tuple):
        x, table = x
    x = trunk.norm_pre(x)[0]
    num_prefix, with_cls = trunk.num_prefix_tokens, trunk.cls_token is not None
    alive = list(range(len(x) - num_prefix))
    stages = dict(zip(student.schedule.prune_after, student.schedule.keep_ratios, strict=True))
    kept, importance = [], []
    for number, block in enumerate(trunk.blocks, start=1):
        rope = None if table is None else (table[number - 1][:, alive] if table.ndim == 4 else table[alive])
        importance = plain_importance(block.attn, block.norm1(x), rope, num_prefix, with_cls)
        x = block(x[None])[0] if table is None else block(x[None], rope=rope)[0]
        if number in stages:
            count = max(1, int(stages[number] * len(alive) + 1e-9))
            places = sorted(sorted(range(len(alive)), key=lambda i: -importance[i])[:count])  # noqa: B023 (used at once)
            alive, importance = [alive[place] for place in places], [importance[place] for place in places]
            x = x[list(range(num_prefix)) + [num_prefix + place for place in places]]
            kept.append(alive)
    x = trunk.norm(x)
    if trunk.global_pool == "map":
        with_prefix = isinstance(trunk, Eva)  # timm's other class pools the patches alone
        importance = plain_pooling(trunk.attn_pool, x)[num_prefix:] if with_prefix else plain_pooling(trunk.attn_pool, x[num_prefix:])
    tokens = x[num_prefix:]
    return {
        "embedding": trunk.fc_norm(trunk.pool(x[None]))[0],
        "tokens": tokens if trunk.global_pool == "map" else trunk.fc_norm(tokens),
        "token_index": alive,
        "token_mass": torch.tensor(importance) / sum(importance),
        "kept": kept,
    }


def plain_pooling(pool: Any, x_ND: Tensor) -> list[float]:
    """The attention of the pooling query to each token, mean over heads."""
    query, keys = pool.q(pool.latent)[0, 0], pool.kv(x_ND)[:, : x_ND.shape[1]]
    width = len(query) // pool.num_heads
    rows = []
    for number in range(pool.num_heads):
        part = slice(number * width, (number + 1) * width)
        rows.append((pool.k_norm(keys[:, part]) @ pool.q_norm(query[part]) / width**0.5).softmax(dim=0))
    return torch.stack(rows).mean(dim=0).tolist()


@pytest.mark.parametrize("backbone", FAMILIES)
@torch.no_grad()
def test_an_unpruned_model_is_timms(backbone: str) -> None:
    teacher = make_student(backbone, NO_PRUNING)
    assert teacher.trunk.global_pool == FAMILIES[backbone][1]
    options = {**teacher.backbone_options, "global_pool": teacher.trunk.global_pool}
    model: Any = timm.create_model(backbone, pretrained=False, num_classes=5, **options).eval()
    model.load_state_dict(teacher.trunk.state_dict())
    images = images_for(teacher)
    features = model.forward_features(images)
    for tokens in (True, False):
        out = teacher(images, tokens=tokens)
        torch.testing.assert_close(out.embedding, model.forward_head(features, pre_logits=True), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.logits, model(images), atol=1e-5, rtol=1e-5)
    patches = features[:, model.num_prefix_tokens :]
    patches = patches if model.global_pool == "map" else model.fc_norm(patches)  # a norm after the mean
    torch.testing.assert_close(teacher(images).tokens, patches, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "image"),
    [
        *((backbone, (64, 96)) for backbone in FAMILIES),
        ("vit_small_patch16_dinov3", (256, 256)),
        ("vit_small_patch16_dinov3", (512, 512)),
        ("vit_pe_core_tiny_patch16_384", (256, 384)),
        ("vit_base_patch16_siglip_256", (256, 256)),
        ("vit_base_patch16_siglip_256", (384, 512)),
    ],
)
@torch.no_grad()
def test_a_pruned_model_equals_dropping_tokens_after_each_block(backbone: str, image: tuple[int, int]) -> None:
    student = make_student(backbone, STAGES, image)
    images = images_for(student, 2 if image == (64, 96) else 1)
    out, bare = student(images), student(images, tokens=False)
    torch.testing.assert_close(bare.embedding, out.embedding, atol=1e-5, rtol=1e-5)
    assert bare.tokens is None and bare.token_mass is None
    for number, image_CHW in enumerate(images):
        plain = plain_forward(student, image_CHW)
        assert [stage[number].tolist() for stage in out.kept] == plain["kept"]
        assert out.token_index[number].tolist() == plain["token_index"]
        for name in ("embedding", "tokens", "token_mass"):
            torch.testing.assert_close(getattr(out, name)[number], plain[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "backbone",
    [
        "vit_small_patch16_dinov3",
        "vit_pe_core_tiny_patch16_384",
        "vit_medium_patch16_rope_reg1_gap_256",
        "vit_base_patch16_siglip_256",
        "vit_base_patch16_siglip_gap_256",
    ],
)
def test_every_weight_gets_a_gradient_without_tokens(backbone: str) -> None:
    student = make_student(backbone, STAGES).train()
    student(images_for(student), tokens=False).hash.square().sum().backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("backbone", ["vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_224", "vit_pe_core_tiny_patch16_384"])
@torch.no_grad()
def test_a_bundle_gives_the_same_outputs(backbone: str, tmp_path: Any) -> None:
    student = make_student(backbone, STAGES)
    save_bundle(student, tmp_path / "model")
    images = images_for(student)
    for one, other in zip(load_bundle(tmp_path / "model")(images)[:6], student(images)[:6], strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_images_of_another_size_are_refused_by_a_model_that_timm_lets_change_size() -> None:
    student = make_student("vit_small_patch16_dinov3", STAGES)
    with pytest.raises(AssertionError, match="height"):
        student(torch.zeros(1, 3, 96, 96))


@pytest.mark.parametrize("backbone", ["vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_224"])
@torch.no_grad()
def test_bfloat16_autocast_stays_close(backbone: str) -> None:
    student = make_student(backbone, PruningSchedule((2,), (0.7,)))
    images = images_for(student, 4)
    exact = student(images)
    with torch.autocast("cpu", torch.bfloat16):
        low = student(images)
    assert torch.cosine_similarity(low.embedding.float(), exact.embedding, dim=1).min() > 0.98


def test_random_patches_dropped_in_training_are_refused() -> None:
    with pytest.raises(ValueError, match="patch_drop_rate.*pruning schedule"):
        make_student("vit_small_patch16_dinov3", STAGES, patch_drop_rate=0.2)
