"""Measures of a ranking: mAP, precision and recall at k, R-precision and MAP@R, as means over random order inside ties; streaming."""

from eet.metrics.cosine_metrics import cosine_metrics
from eet.metrics.distance_histogram import (
    expected_average_precision,
    precision_recall_curve,
)
from eet.metrics.intervals import means_with_intervals, measures_as_text, measures_with_bounds, recall_of_all
from eet.metrics.json_values import json_values
from eet.metrics.match_lists import MatchLists, matches_by_label
from eet.metrics.measures import MEASURES, Measure, measures_of_groups
from eet.metrics.nearby import Positions, metres_between, nearby
from eet.metrics.pareto import pareto_set
from eet.metrics.place_recall import place_recall
from eet.metrics.protocols import encoded_protocol, published_gallery, published_protocol
from eet.metrics.query_measures import average_precision, map_at_r, precision_at_k, r_precision, recall_at_k
from eet.metrics.ranked_metrics import RankedGallery, rank_gallery, ranked_metrics
from eet.metrics.tie_groups import TieGroups, check_ranks, check_ties
from eet.options.choices import Denominator, Ties

__all__ = [
    "MEASURES",
    "Denominator",
    "Measure",
    "MatchLists",
    "Positions",
    "RankedGallery",
    "TieGroups",
    "Ties",
    "average_precision",
    "check_ranks",
    "check_ties",
    "cosine_metrics",
    "encoded_protocol",
    "expected_average_precision",
    "json_values",
    "map_at_r",
    "matches_by_label",
    "means_with_intervals",
    "measures_of_groups",
    "measures_as_text",
    "measures_with_bounds",
    "metres_between",
    "nearby",
    "pareto_set",
    "place_recall",
    "precision_at_k",
    "precision_recall_curve",
    "published_gallery",
    "published_protocol",
    "r_precision",
    "rank_gallery",
    "ranked_metrics",
    "recall_at_k",
    "recall_of_all",
]
