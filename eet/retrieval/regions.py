"""Which regions of two images were matched most strongly, as data."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from eet.figures import Line
from eet.gallery import Manifest, fixed_binary_to_numpy
from eet.matching import MARGINALS, correspondences, structural_similarity
from eet.matching.token_set import unit_length
from eet.retrieval.pairs import needed_columns, token_set

LINES = 5
"""Default number of matched regions."""


@dataclass(frozen=True, kw_only=True)
class Transport:
    """Options of the matching in a re-ranking, as in `eet.rerank`."""

    marginal: str = "importance"
    epsilon: float = 0.05
    transported: float = 1.0
    solver: str = "sinkhorn"


@dataclass(frozen=True)
class ImageTokens:
    """The stored tokens of one image.

    Attributes:
        tokens_KD: float32.
        mass_K: float32, their importance.
        index_K: int64, their positions on the grid.
        centre_D: the final CLS vector, float32; None where the gallery has none in the space of the tokens.
    """

    tokens_KD: torch.Tensor
    mass_K: torch.Tensor
    index_K: torch.Tensor
    centre_D: torch.Tensor | None

    @classmethod
    def of_row(cls, row: pa.Table, manifest: Manifest) -> "ImageTokens":
        """From a row that has tokens. row: with the columns of `region_columns`. manifest: of its gallery."""
        tokens = token_set(row, manifest)  # not rotated: the two sides may be stored in different forms
        assert tokens.mass_NK is not None
        index_NK = fixed_binary_to_numpy(row["token_index"], "<u2", tokens.mass_NK.shape[1:])
        return cls(
            _float32(tokens.tokens_NKD[0]),
            _float32(tokens.mass_NK[0]),
            torch.tensor(index_NK[0].astype(np.int64)),
            None if tokens.center_ND is None else _float32(tokens.center_ND[0]),
        )


class MatchedRegions(NamedTuple):
    """The strongest matches first, and how much mass each token of either image had in the matching."""

    lines: list[Line]
    query_mass_K: np.ndarray
    item_mass_K: np.ndarray


def region_columns(manifest: Manifest) -> list[str]:
    """The columns of a gallery that `ImageTokens.of_row` reads."""
    return [*needed_columns(embeddings=manifest.embedding_dim is not None), "token_index"]


def matched_regions(
    query: ImageTokens,
    item: ImageTokens,
    transport: Transport,
    *,
    grid: tuple[int, int],
    patch_size: int | tuple[int, int] = 1,
    count: int = LINES,
) -> MatchedRegions:
    """Matches two images as the re-ranking does.

    Args:
        query: the query.
        item: one of its hits.
        transport: options of the matching.
        grid: rows and columns of the model's patches.
        patch_size: pixels of a patch.
        count: most lines.
    """
    centres = query.centre_D is not None and item.centre_D is not None
    masses = [_mass(mine, other, transport.marginal, centres=centres) for mine, other in ((query, item), (item, query))]
    _, plan_1KL = structural_similarity(
        query.tokens_KD, item.tokens_KD[None], masses[0], masses[1][None],
        epsilon=transport.epsilon, transported=transport.transported, solver=transport.solver,
    )  # fmt: skip
    found = correspondences(
        query.tokens_KD, item.tokens_KD, plan_1KL[0], query.index_K, item.index_K, grid=grid, patch_size=patch_size, count=count
    )
    lines = [
        Line(int(query.index_K[k]), int(item.index_K[m]), float(strength), bool(mutual))
        for k, m, strength, mutual in zip(found.query_token_n, found.gallery_token_n, found.strength_n, found.mutual_n, strict=True)
    ]
    return MatchedRegions(lines, masses[0].numpy(), masses[1].numpy())


def _mass(mine: ImageTokens, other: ImageTokens, marginal: str, *, centres: bool) -> torch.Tensor:
    """The marginal of an image, as in the re-ranking. centres: both images have a stored centre."""
    weigh = MARGINALS[marginal].weigh
    if MARGINALS[marginal].reads == "mass":
        return weigh(mine.mass_K)
    tokens = unit_length(mine.tokens_KD)
    centre = other.centre_D if centres else unit_length(other.tokens_KD).mean(dim=0)
    assert centre is not None
    return weigh(tokens @ unit_length(centre))


def _float32(values: np.ndarray | torch.Tensor) -> torch.Tensor:
    return torch.tensor(np.asarray(values, np.float32))
