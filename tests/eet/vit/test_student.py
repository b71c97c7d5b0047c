"""The whole network, compared with the output of the published code, a plain loop over images, and timm."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import eet.vit.pruned_block
from eet.hashing import Projection
from eet.images import Preprocessing
from eet.vit import PruningSchedule, Student, build_student, student_from_state_dict
from eet.vit.student import normalised_mass

NO_PRUNING = PruningSchedule((), ())
SMALL: dict[str, Any] = {"patch_size": 16, "embed_dim": 32, "depth": 4, "num_heads": 2}


def make_student(
    backbone: str = "deit_tiny_patch16_224", schedule: PruningSchedule | None = None, *, image: tuple[int, int] = (48, 80), **options: Any
) -> Student:
    schedule = PruningSchedule((1, 2, 4), (0.6, 0.7, 0.5)) if schedule is None else schedule
    student = build_student(
        backbone, num_classes=5, num_bits=12, schedule=schedule, weights="none", backbone_options={**SMALL, "img_size": image, **options}
    )
    generator = torch.Generator().manual_seed(3)
    for name, parameter in student.named_parameters():
        if parameter.ndim > 1:  # an untrained ViT attends almost uniformly, which would hide a wrong choice of patches
            nn.init.normal_(parameter, std=0.25, generator=generator)
        elif "ls1" in name or "ls2" in name:
            nn.init.uniform_(parameter, 0.3, 1.0, generator=generator)
    return student.eval()


def images_for(student: Student, count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, *student.preprocessing.image_size, generator=torch.Generator().manual_seed(seed))


def plain_forward(student: Student, image_CHW: Tensor) -> dict[str, Any]:
    """One image through the network with explicit attention matrices, pruned after each whole block. Differentiable."""
    trunk = student.trunk
    patches = trunk.patch_embed(image_CHW[None])[0]
    prefix = [trunk.cls_token[0]]
    if getattr(trunk, "dist_token", None) is not None:
        prefix.append(trunk.dist_token[0])
    if trunk.reg_token is not None:
        prefix.append(trunk.reg_token[0])
    if trunk.no_embed_class:
        x = torch.cat([*prefix, patches + trunk.pos_embed[0]])
    else:
        x = torch.cat([*prefix, patches]) + trunk.pos_embed[0]
    x = trunk.norm_pre(x)
    num_prefix = len(x) - len(patches)
    alive = list(range(len(patches)))
    stages = dict(zip(student.schedule.prune_after, student.schedule.keep_ratios, strict=True))
    kept, importance = [], []
    for number, block in enumerate(trunk.blocks, start=1):
        attn = block.attn
        q, k, v = attn.qkv(block.norm1(x)).view(len(x), 3, attn.num_heads, -1).permute(1, 2, 0, 3)
        q, k = attn.q_norm(q), attn.k_norm(k)
        attention = [(q[h] @ k[h].T / q.shape[-1] ** 0.5).softmax(dim=-1) for h in range(attn.num_heads)]
        content = [attention[h] @ v[h] for h in range(attn.num_heads)]
        importance = []
        for i in range(num_prefix, len(x)):
            norms = [content[h][i].detach().norm().item() for h in range(attn.num_heads)]
            importance.append(sum(norms[h] / (sum(norms) + 1e-8) * attention[h][0, i].item() for h in range(attn.num_heads)))
        x = x + block.ls1(attn.proj(torch.cat(content, dim=-1)))
        x = x + block.ls2(block.mlp(block.norm2(x)))
        if number in stages:
            count = max(1, int(stages[number] * len(alive) + 1e-9))
            places = sorted(sorted(range(len(alive)), key=lambda i: -importance[i])[:count])  # noqa: B023 (used at once)
            alive = [alive[place] for place in places]
            importance = [importance[place] for place in places]
            x = x[list(range(num_prefix)) + [num_prefix + place for place in places]]
            kept.append(alive)
    x = trunk.norm(x)
    logits = trunk.head(x[0])
    return {
        "logits": logits,
        "hash": student.head_hash(logits),
        "embedding": x[0],
        "tokens": x[num_prefix:],
        "token_index": alive,
        "token_mass": torch.tensor(importance) / sum(importance),
        "kept": kept,
    }


# ---- the published code


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if "EET_SHARED" not in os.environ:
        pytest.skip("EET_SHARED does not name the folder of golden outputs")
    file = Path(os.environ["EET_SHARED"]) / "golden" / "eet_forward_a.npz"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    with np.load(file) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def golden_model(golden: dict[str, Any], **schedule: Any) -> Student:
    state = {name[2:]: value for name, value in golden.items() if name.startswith("w:")}
    return student_from_state_dict(state, num_heads=int(golden["meta"][1]), **schedule)


@pytest.mark.shared
@pytest.mark.parametrize("tokens", [True, False])
@torch.no_grad()
def test_student_equals_the_published_code(golden: dict[str, Any], tokens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scores: list[Tensor] = []

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        scores.append(content_importance(*args, **kwargs))
        return scores[-1]

    content_importance = eet.vit.pruned_block.content_importance
    monkeypatch.setattr(eet.vit.pruned_block, "content_importance", recorded)
    out = golden_model(golden)(golden["images"].float(), tokens=tokens)
    torch.testing.assert_close(out.logits, golden["student_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.hash, golden["student_hash"], atol=1e-4, rtol=0)
    assert len(out.kept) == 3 and len(scores) == (4 if tokens else 3)
    published_order = torch.arange(196).expand(3, -1)
    alive = published_order
    for stage in range(3):
        torch.testing.assert_close(out.kept[stage], golden[f"stage{stage}_kept"])
        # The published code lists the living patches by importance at the stage before: compare patch by patch.
        published = torch.full((3, 196), -1.0).scatter(1, published_order, golden[f"stage{stage}_importance"])
        importance = torch.full((3, 196), -1.0).scatter(1, alive, scores[stage])
        torch.testing.assert_close(importance, published, atol=1e-6, rtol=1e-4)
        order = golden[f"stage{stage}_importance"].argsort(dim=1, descending=True)[:, : out.kept[stage].shape[1]]
        published_order, alive = published_order.gather(1, order), out.kept[stage]
    if tokens:
        torch.testing.assert_close(out.token_index, golden["stage2_kept"])


@pytest.mark.shared
@pytest.mark.parametrize("tokens", [True, False])
@torch.no_grad()
def test_teacher_equals_the_published_code(golden: dict[str, Any], tokens: bool) -> None:
    out = golden_model(golden, prune_after=())(golden["images"].float(), tokens=tokens, mass=True)
    torch.testing.assert_close(out.logits, golden["teacher_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.hash, golden["teacher_hash"], atol=1e-4, rtol=0)
    attention = golden["teacher_attention"]
    torch.testing.assert_close(out.token_mass, attention / attention.sum(dim=1, keepdim=True), atol=1e-6, rtol=1e-4)
    assert out.token_index is not None and out.token_index.tolist() == [list(range(196))] * 3


# ---- a plain loop


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("deit_tiny_patch16_224", {}),
    ("vit_small_patch14_reg4_dinov2", {"qk_norm": True}),  # registers outside the position embedding, LayerScale, norm of q and k
    ("vit_tiny_patch16_224", {"reg_tokens": 2}),  # registers inside the position embedding
    ("deit_tiny_distilled_patch16_224", {}),
    ("vit_base_patch16_clip_224", {}),  # a norm before the blocks
    ("vit_small_patch8_224", {"patch_size": 8, "image": (40, 24)}),
]


@pytest.mark.parametrize(("backbone", "options"), VARIANTS)
@torch.no_grad()
def test_student_equals_a_plain_loop(backbone: str, options: dict[str, Any]) -> None:
    student = make_student(backbone, **options)
    images = images_for(student)
    full, bare = student(images), student(images, tokens=False)
    assert student.num_patches == 15 and full.tokens.shape == (3, 3, 32)
    for b in range(3):
        plain = plain_forward(student, images[b])
        for out in (full, bare):
            for name in ("logits", "hash", "embedding"):
                torch.testing.assert_close(getattr(out, name)[b], plain[name], atol=1e-4, rtol=1e-4)
            assert [stage[b].tolist() for stage in out.kept] == plain["kept"]
        torch.testing.assert_close(full.tokens[b], plain["tokens"], atol=1e-4, rtol=1e-4)
        assert full.token_index[b].tolist() == plain["token_index"]
        torch.testing.assert_close(full.token_mass[b], plain["token_mass"], atol=1e-5, rtol=1e-4)
    assert bare.tokens is None and bare.token_index is None and bare.token_mass is None


@torch.no_grad()
def test_patches_of_a_stage_before_the_last_block_are_scored_again_by_the_last() -> None:
    student = make_student(schedule=PruningSchedule((2,), (0.4,)))
    image = images_for(student, 1)
    torch.testing.assert_close(student(image).token_mass[0], plain_forward(student, image[0])["token_mass"], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_positions_are_original_ascending_and_nested_and_mass_sums_to_one() -> None:
    student = make_student("vit_small_patch14_reg4_dinov2")
    out = student(images_for(student, 8))
    assert [stage.shape[1] for stage in out.kept] == [9, 6, 3]
    alive = [set(range(15))] * 8
    for stage in out.kept:
        assert stage.dtype == torch.int64 and (stage.diff(dim=1) > 0).all()
        for b in range(8):
            assert set(stage[b].tolist()) < alive[b]
            alive[b] = set(stage[b].tolist())
    assert torch.equal(out.token_index, out.kept[-1])
    assert len({tuple(row) for row in out.token_index.tolist()}) > 1, "every image kept the same patches: the images do not matter"
    assert out.token_mass.dtype == torch.float32 and (out.token_mass >= 0).all()
    torch.testing.assert_close(out.token_mass.sum(dim=1), torch.ones(8))


@torch.no_grad()
def test_other_images_of_the_batch_do_not_matter() -> None:
    student = make_student()
    images, others = images_for(student, 4), images_for(student, 4, seed=9)
    first, second = student(images), student(torch.cat([images[:2], others[2:]]))
    for one, other in zip(first[:6], second[:6], strict=True):
        assert torch.equal(one[:2], other[:2])
    alone = student(images[1:2])
    torch.testing.assert_close(alone.hash[0], first.hash[1], atol=1e-5, rtol=1e-5)
    assert torch.equal(alone.token_index[0], first.token_index[1])


@torch.no_grad()
@torch.no_grad()
def test_hash_of_probabilities_starts_as_the_expected_target_code() -> None:
    student, published = make_student(), make_student()
    student.hash_input = "probabilities"  # both heads are as wide as the labels
    codes = torch.from_numpy(np.where(np.random.default_rng(1).random((5, 12)) < 0.5, -1, 1))
    student.start_hash_at_codes(codes)
    out = student(images_for(student))
    assert torch.equal(out.logits, published(images_for(student)).logits)
    for logits, hashed in zip(out.logits, out.hash, strict=True):
        weights = [float((logits[label].double() - logits.double().max()).exp()) for label in range(5)]
        expected = sum(weight / sum(weights) * code for weight, code in zip(weights, codes.double(), strict=True))
        torch.testing.assert_close(hashed.double(), expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("hash_input", "whitened"), [("probabilities", False), ("joint", False), ("joint", True)])
def test_the_hash_is_a_linear_layer_of_the_probabilities_at_a_temperature_and_of_the_image(hash_input: Any, whitened: bool) -> None:
    student = build_student(
        "deit_tiny_patch16_224", num_classes=5, num_bits=12, schedule=NO_PRUNING, weights="none", hash_input=hash_input, label_weight=0.4,
        backbone_options={**SMALL, "img_size": (48, 80)},
    ).eval()  # fmt: skip
    nn.init.normal_(student.trunk.head.weight, std=2.0, generator=torch.Generator().manual_seed(1))
    student.temperature = 2.5
    random, width = np.random.default_rng(4), student.embedding_width
    whitening = Projection(random.standard_normal((width, width)), random.standard_normal(width))
    if whitened:
        student.set_whitening(whitening)
    out = student(images_for(student))
    weight, bias = student.head_hash.weight.double().numpy(), student.head_hash.bias.double().numpy()
    for logits, embedding, hashed in zip(*(value.double().numpy() for value in (out.logits, out.embedding, out.hash)), strict=True):
        powers = [np.exp(logit / 2.5) for logit in logits]
        read = np.array(powers) / sum(powers)
        if hash_input == "joint":
            if whitened:
                embedding = np.array([float(row @ embedding + shift) for row, shift in zip(*whitening, strict=True)])
            read = np.concatenate([embedding / np.sqrt((embedding**2).sum()), 0.4 * read / np.sqrt((read**2).sum())])
        np.testing.assert_allclose(hashed, [float(row @ read + shift) for row, shift in zip(weight, bias, strict=True)], atol=1e-5)


def test_only_a_joint_hash_can_be_whitened_and_another_schedule_keeps_the_layer() -> None:
    width = make_student().embedding_width
    eye = Projection(np.eye(width), np.arange(width))
    with pytest.raises(ValueError, match="the hash reads logits"):
        make_student().set_whitening(eye)
    student = build_student(
        "deit_tiny_patch16_224", num_classes=5, num_bits=12, schedule=NO_PRUNING, weights="none", hash_input="joint",
        backbone_options={**SMALL, "img_size": (48, 80)},
    ).eval()  # fmt: skip
    plain = student(images_for(student)).hash
    student.set_whitening(eye)
    pruned = student.with_schedule(PruningSchedule((1,), (1.0,)))
    torch.testing.assert_close(pruned(images_for(student)).hash, student(images_for(student)).hash, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(student(images_for(student)).hash, plain)
    assert not any(parameter.requires_grad for parameter in student.whitening.parameters())
    student.set_whitening(None)
    assert torch.equal(student(images_for(student)).hash, plain)


def test_only_a_hash_of_probabilities_can_start_at_the_codes() -> None:
    with pytest.raises(ValueError, match="the hash reads logits"):
        make_student().start_hash_at_codes(torch.ones(5, 12))


def test_mass_is_available_without_tokens_but_not_tokens_without_mass() -> None:
    student = make_student(schedule=NO_PRUNING)
    images = images_for(student)
    full, out = student(images), student(images, tokens=False, mass=True)
    assert out.tokens is None and torch.equal(out.token_index, full.token_index)
    torch.testing.assert_close(out.token_mass, full.token_mass)
    torch.testing.assert_close(out.hash, full.hash, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="leave mass out"):
        student(images, tokens=True, mass=False)


@torch.no_grad()
def test_a_student_that_keeps_all_patches_is_the_teacher() -> None:
    teacher = make_student(schedule=NO_PRUNING)
    student = make_student(schedule=PruningSchedule((1, 3), (1.0, 1.0)))
    images = images_for(teacher)
    torch.testing.assert_close(student(images).tokens, teacher(images).tokens, atol=1e-5, rtol=1e-5)


# ---- timm


@pytest.mark.parametrize(("backbone", "options"), VARIANTS)
@torch.no_grad()
def test_teacher_equals_timm(backbone: str, options: dict[str, Any]) -> None:
    teacher = make_student(backbone, NO_PRUNING, **options)
    built = dict(teacher.backbone_options)
    model = timm.create_model(backbone, pretrained=False, num_classes=5, **built).eval()
    model.load_state_dict(teacher.trunk.state_dict(), strict=not hasattr(model, "head_dist"))
    images = images_for(teacher)
    features = model.forward_features(images)
    for tokens in (True, False):
        out = teacher(images, tokens=tokens)
        torch.testing.assert_close(out.embedding, features[:, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(out.logits, model.head(features[:, 0]), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(out.hash, teacher.head_hash(out.logits))
        assert out.kept == ()
    torch.testing.assert_close(teacher(images).tokens, features[:, model.num_prefix_tokens :], atol=1e-4, rtol=1e-4)


# ---- training, compiling, precision, cost


@pytest.mark.parametrize("tokens", [True, False])
def test_gradients_are_those_of_the_plain_loop_with_constant_scores(tokens: bool) -> None:
    student = make_student("vit_small_patch14_reg4_dinov2", qk_norm=True)
    images = images_for(student, 2)
    out = student(images, tokens=tokens)
    assert not tokens or (not out.token_mass.requires_grad and out.tokens.requires_grad)
    loss = out.hash.square().sum() + (out.tokens.square().sum() if tokens else 0)
    names, parameters = zip(*student.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    plain = [plain_forward(student, image) for image in images]
    plain_loss = sum(p["hash"].square().sum() + (p["tokens"].square().sum() if tokens else 0) for p in plain)
    plain_gradients = torch.autograd.grad(plain_loss, parameters)
    # One tolerance for all: some gradients (of a bias on keys) are only rounding errors.
    largest = max(float(gradient.abs().max()) for gradient in plain_gradients)
    for name, value, reference in zip(names, gradients, plain_gradients, strict=True):
        assert (value - reference).abs().max() < 1e-5 * largest, name


@pytest.mark.parametrize(("prune_after", "tokens", "living"), [((4,), True, 3), ((4,), False, 0), ((2,), True, 3), ((2,), False, 0)])
def test_the_last_block_projects_only_requested_tokens(prune_after: tuple[int, ...], tokens: bool, living: int) -> None:
    student = make_student(schedule=PruningSchedule(prune_after, (0.2,)))
    block, seen = student.trunk.blocks[3], []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output.shape[1])

    block.mlp.register_forward_hook(note)
    block.attn.proj.register_forward_hook(note)
    student(images_for(student, 1), tokens=tokens)
    assert seen == [1 + living] * 2


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
@torch.no_grad()
def test_compiles_without_a_graph_break(backbone: str) -> None:
    student = make_student(backbone, PruningSchedule((1, 2), (0.6, 0.5)), qk_norm=True, depth=3)
    images = images_for(student)
    compiled = torch.compile(student, backend="eager", fullgraph=True)
    for tokens in (True, False):
        for value, reference in zip(compiled(images, tokens=tokens)[:6], student(images, tokens=tokens)[:6], strict=True):
            assert (value is None) == (reference is None)
            if value is not None:
                torch.testing.assert_close(value, reference)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["deit_tiny_patch16_224", "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224"])
@torch.no_grad()
def test_an_exported_program_takes_any_number_of_images(backbone: str) -> None:
    student = make_student(backbone, PruningSchedule((1, 2), (0.6, 0.5)), depth=2)
    images = images_for(student, 5)
    batch = {"images_BCHW": {0: torch.export.Dim("batch")}, "tokens": None}
    program = torch.export.export(student, (images,), {"tokens": True}, dynamic_shapes=batch).module()
    for count in (1, 3, 5):
        for value, reference in zip(program(images[:count], tokens=True)[:6], student(images[:count])[:6], strict=True):
            torch.testing.assert_close(value, reference)


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_bfloat16_autocast_stays_close(qk_norm: bool) -> None:
    student = make_student(schedule=PruningSchedule((2, 3), (0.6, 0.7)), qk_norm=qk_norm)
    images = images_for(student, 8)
    exact = student(images)
    with torch.autocast("cpu", torch.bfloat16):
        low, bare = student(images), student(images, tokens=False)
    assert low.token_mass.dtype == torch.float32
    torch.testing.assert_close(low.token_mass.sum(dim=1), torch.ones(8))
    same = sum(len(set(a) & set(b)) for a, b in zip(low.token_index.tolist(), exact.token_index.tolist(), strict=True))
    assert same >= 0.9 * exact.token_index.numel()
    for out in (low, bare):
        assert torch.cosine_similarity(out.embedding.float(), exact.embedding, dim=1).min() > 0.99
        assert torch.cosine_similarity(out.hash.float(), exact.hash, dim=1).min() > 0.98


@torch.no_grad()
def test_published_vit_small_costs_half_of_timms() -> None:
    student = build_student("vit_small_patch16_224", num_classes=200, num_bits=64, schedule=PruningSchedule(), weights="none").eval()
    model = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=200).eval()
    image = torch.randn(1, 3, 224, 224)

    def macs(network: nn.Module, **options: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            network(image, **options)
        return counter.get_total_flops() / 2e9

    timm_macs = macs(model)
    assert 4.5 < timm_macs < 4.7, "the counter must include attention"
    assert macs(student, tokens=False) <= 0.505 * timm_macs
    assert macs(student, tokens=True) <= 0.52 * timm_macs


# ---- sizes and errors


def test_sizes() -> None:
    student = make_student("vit_small_patch14_reg4_dinov2", image=(32, 64))
    assert (student.num_bits, student.num_classes, student.num_patches) == (12, 5, 8)
    assert student.grid == (2, 4) and student.patch_size == (16, 16)
    assert student.preprocess is student.preprocessing and student.preprocessing.image_size == (32, 64)


@torch.no_grad()
def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(AssertionError, match="height"):
        make_student()(torch.zeros(1, 3, 64, 80))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_bits": 0}, "at least 1"),
        ({"schedule": PruningSchedule((5,), (0.5,))}, "blocks 1 to 4"),
        ({"trunk": nn.Linear(2, 2)}, "the given trunk is a Linear.*Choose"),
        ({"hash_input": "embedding"}, "logits or probabilities or joint"),
        ({"temperature": 0.0}, "temperature 0.0 must be above 0"),
        ({"label_weight": -0.1}, "label_weight -0.1 0 or more"),
    ],
)
def test_invalid_students_are_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "trunk": make_student().trunk,
        "num_bits": 8,
        "schedule": NO_PRUNING,
        "preprocessing": Preprocessing.published((48, 80)),
    }
    with pytest.raises(ValueError, match=message):
        Student(**{**given, **change})


def test_mass_without_a_positive_sum_is_uniform() -> None:
    mass = normalised_mass(torch.tensor([[1.0, 3.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]]))
    assert mass.tolist() == [[0.25, 0.75]] + [[0.5, 0.5]] * 3
