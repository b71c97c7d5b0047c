"""How good a ranking is: average precision with ties, precision and recall at k, R-precision, MAP@R, streaming."""

from eet.metrics.average_precision import average_precision
from eet.metrics.cosine_metrics import cosine_metrics
from eet.metrics.distance_histogram import (
    expected_average_precision,
    precision_recall_curve,
)
from eet.metrics.pareto import pareto_set
from eet.metrics.protocols import encoded_protocol, published_gallery, published_protocol
from eet.metrics.ranked_metrics import RankedGallery, rank_gallery, ranked_metrics
from eet.metrics.ranked_relevance import map_at_r, precision_at_k, r_precision, recall_at_k

__all__ = [
    "RankedGallery",
    "average_precision",
    "cosine_metrics",
    "encoded_protocol",
    "expected_average_precision",
    "map_at_r",
    "pareto_set",
    "precision_at_k",
    "precision_recall_curve",
    "published_gallery",
    "published_protocol",
    "r_precision",
    "rank_gallery",
    "ranked_metrics",
    "recall_at_k",
]
