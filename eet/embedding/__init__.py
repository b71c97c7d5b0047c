"""Base models of re-ranking: backbones with a head for image and patches, trained by metric learning, on disk as bundles."""

import eet.deferred_compiler  # noqa: F401  before anything imports timm
from eet.embedding.aggregation import Aggregation
from eet.embedding.aggregations import AGGREGATIONS, build_aggregation
from eet.embedding.backbone import Backbone, BackboneOutput
from eet.embedding.base_model import BACKBONES, TOKEN_GRID, BaseModel, BaseOutput, build_base
from eet.embedding.bundle import BaseRecord, base_digest, load_base, read_base_record, save_base
from eet.embedding.following import FOLLOWING
from eet.embedding.loss import EmbeddingLoss
from eet.embedding.losses import LOSSES, build_loss
from eet.embedding.margin import MarginObjective, distance_weighted_triplets
from eet.embedding.whitening import fit_whitening
from eet.options.defaults import PUBLISHED_BOUNDARY, PUBLISHED_BOUNDARY_LEARNING_RATE, PUBLISHED_MARGIN, PUBLISHED_WIDTH

__all__ = [
    "AGGREGATIONS",
    "BACKBONES",
    "FOLLOWING",
    "LOSSES",
    "PUBLISHED_BOUNDARY",
    "PUBLISHED_BOUNDARY_LEARNING_RATE",
    "PUBLISHED_MARGIN",
    "PUBLISHED_WIDTH",
    "TOKEN_GRID",
    "Aggregation",
    "Backbone",
    "BackboneOutput",
    "BaseModel",
    "BaseOutput",
    "BaseRecord",
    "EmbeddingLoss",
    "MarginObjective",
    "base_digest",
    "build_aggregation",
    "build_base",
    "build_loss",
    "distance_weighted_triplets",
    "fit_whitening",
    "load_base",
    "read_base_record",
    "save_base",
]
