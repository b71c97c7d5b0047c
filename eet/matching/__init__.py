"""Matching image regions: marginals, solvers (full and partial transport, MaxSim), scores of many pairs, rollout, correspondences."""

from eet.matching.convergence import ConvergenceWarning
from eet.matching.correspondences import Correspondences, correspondences
from eet.matching.global_similarity import asymmetric_similarity, cosine_similarity, hamming_similarity
from eet.matching.marginals import MARGINALS, Marginal
from eet.matching.pairs import Matches, match_pairs, matches_of_pairs
from eet.matching.patch_similarity import patch_similarity
from eet.matching.published_marginals import importance, uniform
from eet.matching.rollout import attention_rollout
from eet.matching.similarity import structural_similarity
from eet.matching.sinkhorn import Transport, sinkhorn
from eet.matching.solvers import SOLVERS
from eet.matching.structural_distance import structural_distance
from eet.matching.student_rollout import forward_with_rollout, rollout_mass
from eet.matching.token_set import TokenSet

__all__ = [
    "MARGINALS",
    "SOLVERS",
    "ConvergenceWarning",
    "Correspondences",
    "Marginal",
    "Matches",
    "TokenSet",
    "Transport",
    "asymmetric_similarity",
    "attention_rollout",
    "correspondences",
    "cosine_similarity",
    "forward_with_rollout",
    "hamming_similarity",
    "importance",
    "match_pairs",
    "matches_of_pairs",
    "patch_similarity",
    "rollout_mass",
    "sinkhorn",
    "structural_distance",
    "structural_similarity",
    "uniform",
]
