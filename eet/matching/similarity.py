"""Structural similarity: how well the regions of one image can be moved onto those of another.

Shape suffixes: P gallery images, K tokens (Kq of the query, Kg of a gallery image), D dimensions.
"""

from typing import Literal, overload

import torch

from eet.errors import InputError
from eet.matching.pairs import match_pairs
from eet.matching.published_marginals import importance
from eet.matching.sinkhorn import check_transport
from eet.matching.solvers import SOLVERS
from eet.matching.token_set import TokenSet, unit_length


@overload
def structural_similarity(
    query_KD: torch.Tensor,
    gallery_PKD: torch.Tensor,
    query_mass_K: torch.Tensor,
    gallery_mass_PK: torch.Tensor,
    *,
    epsilon: float = ...,
    transported: float = ...,
    solver: str = ...,
    plans: Literal[True] = ...,
    threads: int | None = ...,
) -> tuple[torch.Tensor, torch.Tensor]: ...


@overload
def structural_similarity(
    query_KD: torch.Tensor,
    gallery_PKD: torch.Tensor,
    query_mass_K: torch.Tensor,
    gallery_mass_PK: torch.Tensor,
    *,
    epsilon: float = ...,
    transported: float = ...,
    solver: str = ...,
    plans: bool,
    threads: int | None = ...,
) -> tuple[torch.Tensor, torch.Tensor | None]: ...


def structural_similarity(
    query_KD: torch.Tensor,
    gallery_PKD: torch.Tensor,
    query_mass_K: torch.Tensor,
    gallery_mass_PK: torch.Tensor,
    *,
    epsilon: float = 0.05,
    transported: float = 1.0,
    solver: str = "sinkhorn",
    plans: bool = True,
    threads: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
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
        plans: return the plans too. Without them scores are those of `match_pairs`, as fast: the solvers sinkhorn and maxsim then run as
            compiled loops on a CPU, unless a gradient of the tokens is followed.
        threads: CPU threads of the compiled loops, at least 1; default all.

    Returns:
        scores: float32 (P,), in [-transported, transported] up to rounding; differentiable in the tokens, with the plan
            held fixed. With and without plans they differ by at most 1e-4.
        plans: float32 (P, Kq, Kg), each summing to `transported` (of maxsim to 1); not differentiable. None if they are not wanted.

    Raises:
        InputError: shapes do not fit, a parameter is out of range, or the solver is unknown.

    Warns:
        ConvergenceWarning: some plans of solver sinkhorn do not move the requested share, or break a marginal.

    Example:
        >>> scores, _ = structural_similarity(query, images, query_mass, image_masses, plans=False)
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
    followed = torch.is_grad_enabled() and (query_KD.requires_grad or gallery_PKD.requires_grad)
    if not plans and not followed:
        scores_P = match_pairs(
            TokenSet(query_KD.detach()[None], query_mass_K.detach()[None]),
            TokenSet(gallery_PKD.detach(), gallery_mass_PK.detach()),
            torch.stack([torch.zeros(len(gallery_PKD), dtype=torch.int64), torch.arange(len(gallery_PKD))], dim=1),
            epsilon=epsilon,
            transported=transported,
            solver=solver,
            threads=threads,
            device=str(gallery_PKD.device),
        )
        return scores_P.to(gallery_PKD.device), None
    query_KD, gallery_PKD = unit_length(query_KD), unit_length(gallery_PKD)
    cosine_PKL = (gallery_PKD @ query_KD.mT).mT
    with torch.no_grad():
        query_marginal_PK = importance(query_mass_K).expand(len(gallery_PKD), -1)
        gallery_marginal_PL = importance(gallery_mass_PK)
        plan_PKL = SOLVERS[solver](1 - cosine_PKL, query_marginal_PK, gallery_marginal_PL, epsilon=epsilon, transported=transported)
    return (plan_PKL * cosine_PKL).sum(dim=(1, 2)), plan_PKL if plans else None
