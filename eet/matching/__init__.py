"""Matching image regions by optimal transport: marginals, Sinkhorn (full and partial), structural similarity."""

from eet.matching.global_similarity import asymmetric_similarity, cosine_similarity, hamming_similarity
from eet.matching.marginals import MARGINALS, importance, uniform
from eet.matching.similarity import structural_similarity
from eet.matching.sinkhorn import Transport, sinkhorn

__all__ = [
    "MARGINALS",
    "Transport",
    "asymmetric_similarity",
    "cosine_similarity",
    "hamming_similarity",
    "importance",
    "sinkhorn",
    "structural_similarity",
    "uniform",
]
