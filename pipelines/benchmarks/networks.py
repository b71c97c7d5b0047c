"""Networks of the benchmarks. Weights are random, because time does not depend on them."""

import timm
from timm.models.vision_transformer import VisionTransformer

from eet.errors import InputError
from eet.vit import PruningSchedule, Student, build_student, scaled_prune_after

NUM_CLASSES, NUM_BITS = 200, 64
UNPRUNED = PruningSchedule((), ())


def timm_vit(backbone: str) -> VisionTransformer:
    """timm's ViT, with its fused attention."""
    return timm.create_model(backbone, pretrained=False, num_classes=NUM_CLASSES)


def student_of(backbone: str, schedule: PruningSchedule) -> Student:
    return build_student(backbone, num_classes=NUM_CLASSES, num_bits=NUM_BITS, schedule=schedule, weights="none")


def schedule_of(backbone: str, keep_ratios: tuple[float, ...]) -> PruningSchedule:
    """The published stages, moved to the backbone's depth."""
    depth = len(timm_vit(backbone).blocks)
    return PruningSchedule(scaled_prune_after(depth, len(keep_ratios)), keep_ratios)


def parsed_schedule(text: str, backbone: str) -> PruningSchedule:
    """'4:0.7,7:0.7,10:0.7' -> after block 4 a share of 0.7 stays, and so on; with '/8' at the end, tokens are kept in
    multiples of 8.

    InputError for other text, and where the backbone has too few blocks.
    """
    stages, slash, multiple = text.partition("/")
    pairs = [stage.split(":") for stage in stages.split(",")]
    try:
        schedule = PruningSchedule(tuple(int(block) for block, _ in pairs), tuple(float(ratio) for _, ratio in pairs))
        trunk = timm_vit(backbone)
        schedule.check_depth(len(trunk.blocks))
        return schedule.rounded(trunk.patch_embed.num_patches, num_prefix=trunk.num_prefix_tokens, multiple=int(multiple) if slash else 1)
    except ValueError as error:
        raise InputError(
            f"schedule {text!r}: write block:ratio for each stage, such as 4:0.7,7:0.7,10:0.7 or 4:0.5,8:0.5/8 ({error})"
        ) from error
