"""Losses of the student: from its teacher (DKT), masked regions (DRG), labels and target codes."""

from eet.distillation.knowledge_transfer import knowledge_transfer_loss
from eet.distillation.objective import DistillationObjective, HashingObjective, StepLosses, trained_hash
from eet.distillation.region_guidance import mask_patches, most_important_patches
from eet.options.defaults import PUBLISHED_BETA, PUBLISHED_MASKED_PATCHES, PUBLISHED_SIGMA

__all__ = [
    "PUBLISHED_BETA",
    "PUBLISHED_MASKED_PATCHES",
    "PUBLISHED_SIGMA",
    "DistillationObjective",
    "HashingObjective",
    "StepLosses",
    "knowledge_transfer_loss",
    "mask_patches",
    "most_important_patches",
    "trained_hash",
]
