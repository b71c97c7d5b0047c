"""Networks of the benchmarks. Weights are random, because time does not depend on them."""

import timm
from timm.models.vision_transformer import VisionTransformer

from eet.errors import InputError
from eet.vit import PruningSchedule, Student, build_student, scaled_prune_after
from pipelines.configs.benchmark import stages_of

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
    """The schedule that a text describes, see `stages_of`, on a backbone.

    InputError for other text, and where the backbone has too few blocks.
    """
    schedule, multiple = stages_of(text)
    trunk = timm_vit(backbone)
    try:
        schedule.check_depth(len(trunk.blocks))
    except InputError as error:
        raise InputError(f"schedule {text!r}: write block:ratio for each stage, such as 4:0.7,7:0.7,10:0.7 ({error})") from error
    return schedule.rounded(trunk.patch_embed.num_patches, num_prefix=trunk.num_prefix_tokens, multiple=multiple)
