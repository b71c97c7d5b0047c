"""Base models of re-ranking: backbones with a head for image and patches, trained by metric learning, on disk as bundles."""

from eet.embedding.backbone import Backbone, BackboneOutput
from eet.embedding.base_model import BACKBONES, PUBLISHED_WIDTH, TOKEN_GRID, BaseModel, BaseOutput, build_base
from eet.embedding.bundle import BaseRecord, base_digest, load_base, read_base_record, save_base
from eet.embedding.margin import (
    PUBLISHED_BETA,
    PUBLISHED_BETA_LEARNING_RATE,
    PUBLISHED_MARGIN,
    MarginObjective,
    distance_weighted_triplets,
)

__all__ = [
    "BACKBONES",
    "PUBLISHED_BETA",
    "PUBLISHED_BETA_LEARNING_RATE",
    "PUBLISHED_MARGIN",
    "PUBLISHED_WIDTH",
    "TOKEN_GRID",
    "Backbone",
    "BackboneOutput",
    "BaseModel",
    "BaseOutput",
    "BaseRecord",
    "MarginObjective",
    "base_digest",
    "base_digest",
    "build_base",
    "distance_weighted_triplets",
    "load_base",
    "read_base_record",
    "save_base",
]
