"""Structural similarity: how well the regions of one image can be moved onto those of another.

Shape suffixes: P gallery images, K tokens (Kq of the query, Kg of a gallery image), D dimensions.
"""

import torch

from eet.errors import InputError
from eet.matching.published_marginals import importance
from eet.matching.sinkhorn import check_transport
from eet.matching.solvers import SOLVERS
from eet.matching.token_set import unit_length


def structural_similarity(
    query_KD: torch.Tensor,
    gallery_PKD: torch.Tensor,
    query_mass_K: torch.Tensor,
    gallery_mass_PK: torch.Tensor,
    *,
    epsilon: float = 0.05,
    transported: float = 1.0,
    solver: str = "sinkhorn",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matches the tokens of a query with those of each gallery image, by entropic optimal transport or another solver.

    Tokens are scaled to unit length, the cost of moving token k to token l is 1 - cosine, and the score is
    <plan, cosine>: the mean cosine over the transported mass, times its share. It follows DIML (Zhao et al., ICCV 2021)
    as its published code and that of vit-reranking compute it.

    Args:
        query_KD: tokens of the query, any float dtype. Tokens with NaN or infinite entries get cosine 0 to all others, so
            that a broken token lowers a score and never makes it NaN, which would rank first.
        gallery_PKD: tokens of the gallery images.
        query_mass_K: importance of the tokens, on any scale (see `eet.matching.marginals.importance`); ones for uniform
            marginals.
        gallery_mass_PK: the same for the gallery images.
        epsilon: strength of the entropy, at least 1e-4. Published: 0.05.
        transported: share of the mass to move, in (0, 1]. At 1 every region must be matched.
        solver: one of `eet.matching.SOLVERS`. exact has no entropy and does not read epsilon. maxsim reads neither epsilon nor
            transported: every token of the query goes to its most similar token of the gallery image.

    Returns:
        scores: float32 (P,), in [-transported, transported] up to rounding; differentiable in the tokens, with the plan
            held fixed.
        plans: float32 (P, Kq, Kg), each summing to `transported` (of maxsim to 1); not differentiable.

    Raises:
        InputError: shapes do not fit, a parameter is out of range, or the solver is unknown.

    Warns:
        ConvergenceWarning: some plans of solver sinkhorn do not move the requested share, or break a marginal.
    """
    check_transport(epsilon, transported)
    if solver not in SOLVERS:
        raise InputError(f"solver {solver!r} is unknown; choose one of {', '.join(SOLVERS)}.")
    if query_KD.ndim != 2 or gallery_PKD.ndim != 3 or query_KD.shape[1] != gallery_PKD.shape[2]:
        raise InputError(
            f"tokens are {tuple(query_KD.shape)} and {tuple(gallery_PKD.shape)}; give (K, D) for the query and "
            "(P, K, D) for the gallery, of one model."
        )
    if 0 in (*query_KD.shape, gallery_PKD.shape[1]):
        raise InputError(f"no tokens to match: {tuple(query_KD.shape)} and {tuple(gallery_PKD.shape)}; encode with tokens.")
    if query_mass_K.shape != query_KD.shape[:1] or gallery_mass_PK.shape != gallery_PKD.shape[:2]:
        raise InputError(
            f"masses are {tuple(query_mass_K.shape)} and {tuple(gallery_mass_PK.shape)}; give one for each token: "
            f"{tuple(query_KD.shape[:1])} and {tuple(gallery_PKD.shape[:2])}."
        )
    query_KD, gallery_PKD = unit_length(query_KD), unit_length(gallery_PKD)
    cosine_PKL = (gallery_PKD @ query_KD.mT).mT
    with torch.no_grad():
        query_marginal_PK = importance(query_mass_K).expand(len(gallery_PKD), -1)
        gallery_marginal_PL = importance(gallery_mass_PK)
        plan_PKL = SOLVERS[solver](1 - cosine_PKL, query_marginal_PK, gallery_marginal_PL, epsilon=epsilon, transported=transported)
    return (plan_PKL * cosine_PKL).sum(dim=(1, 2)), plan_PKL
