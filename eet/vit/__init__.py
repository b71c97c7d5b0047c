"""timm ViTs run block by block: token pruning, student and teacher, hash heads, the model bundle on disk."""

import eet.deferred_compiler  # noqa: F401  before anything imports timm
from eet.options.choices import HashInput
from eet.options.defaults import DEFAULT_LABEL_WEIGHT
from eet.options.schedule import PUBLISHED_KEEP_RATIOS, PUBLISHED_PRUNE_AFTER, PruningSchedule, scaled_prune_after
from eet.vit.backbone import (
    build_student,
    load_trunk_weights,
    preprocessing_of,
    read_state_dict,
    student_from_state_dict,
    timm_named_weights,
    timm_vit,
)
from eet.vit.bundle import BundleRecord, load_bundle, read_bundle_record, save_bundle, weights_digest
from eet.vit.bundle_folder import BASE_MODEL, bundle_files, bundle_kind, is_bundle
from eet.vit.pruned_block import check_block, forward_block
from eet.vit.student import HashOutput, Student
from eet.vit.whole_patches import check_whole_patches

__all__ = [
    "BASE_MODEL",
    "DEFAULT_LABEL_WEIGHT",
    "PUBLISHED_KEEP_RATIOS",
    "PUBLISHED_PRUNE_AFTER",
    "BundleRecord",
    "HashInput",
    "HashOutput",
    "PruningSchedule",
    "Student",
    "build_student",
    "bundle_files",
    "bundle_kind",
    "check_block",
    "check_whole_patches",
    "forward_block",
    "is_bundle",
    "load_bundle",
    "load_trunk_weights",
    "preprocessing_of",
    "read_bundle_record",
    "read_state_dict",
    "save_bundle",
    "scaled_prune_after",
    "student_from_state_dict",
    "timm_named_weights",
    "timm_vit",
    "weights_digest",
]
