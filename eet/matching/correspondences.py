"""Which region of one image was matched with which of the other.

Shape suffixes: K query tokens, L gallery tokens, D dimensions, n correspondences.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eet.errors import InputError
from eet.matching.token_set import unit_length


class Correspondences(NamedTuple):
    """Matched regions, the strongest first.

    Attributes:
        strength_n: float32, mass times cosine; above 0.
        query_token_n, gallery_token_n: int64, places among the tokens.
        query_box_n4, gallery_box_n4: int64, (left, top, right, bottom) in pixels of the network's input, the last two excluded; in cells of
            the grid where the patch size is 1.
        mutual_n: bool, whether each is the other's strongest.
    """

    strength_n: Tensor
    query_token_n: Tensor
    gallery_token_n: Tensor
    query_box_n4: Tensor
    gallery_box_n4: Tensor
    mutual_n: Tensor


def correspondences(
    query_KD: Tensor,
    gallery_LD: Tensor,
    plan_KL: Tensor,
    query_index_K: Tensor,
    gallery_index_L: Tensor,
    *,
    grid: tuple[int, int],
    patch_size: int | tuple[int, int] = 1,
    count: int = 3,
) -> Correspondences:
    """The largest entries of plan times cosine; mutual ones are marked. The published code of vit-reranking shows the 3 largest.

    Args:
        query_KD: tokens of the query, any float dtype and length.
        gallery_LD: tokens of the gallery image.
        plan_KL: transport between them, see `structural_similarity`.
        query_index_K: positions of the tokens, row * columns + column of `grid`: `token_index` of a student, or all cells of a
            pooled map in order.
        gallery_index_L: the same for the gallery image.
        grid: (rows, columns) of patches or cells.
        patch_size: pixels of a patch or cell, a number or (height, width).
        count: number of correspondences, at least 1; fewer are returned if fewer entries are above 0.

    Raises:
        InputError: shapes do not fit, positions lie outside the grid, or count is below 1.
    """
    shape = (len(query_KD), len(gallery_LD))
    if tuple(plan_KL.shape) != shape or (len(query_index_K), len(gallery_index_L)) != shape:
        raise InputError(
            f"{shape[0]} and {shape[1]} tokens, but a plan of {tuple(plan_KL.shape)} and {len(query_index_K)} and {len(gallery_index_L)} "
            "positions; give one row, column and position for each token."
        )
    if count < 1:
        raise InputError(f"count={count}; ask for at least 1.")
    rows, columns = grid
    for index in (query_index_K, gallery_index_L):
        if int(index.min()) < 0 or int(index.max()) >= rows * columns:
            raise InputError(
                f"positions reach from {int(index.min())} to {int(index.max())}; a grid of {grid} has 0 to {rows * columns - 1}."
            )
    strength_KL = plan_KL * (unit_length(query_KD) @ unit_length(gallery_LD).T)
    # Stable, so that equal entries stay in the order of the tokens.
    strength, order = strength_KL.flatten().sort(descending=True, stable=True)
    strength_n = strength[:count][strength[:count] > 0]
    query_n, gallery_n = order[: len(strength_n)] // shape[1], order[: len(strength_n)] % shape[1]
    mutual_n = (strength_KL.argmax(dim=1)[query_n] == gallery_n) & (strength_KL.argmax(dim=0)[gallery_n] == query_n)
    query_box_n4 = _boxes(query_index_K.long()[query_n], columns, patch_size)
    gallery_box_n4 = _boxes(gallery_index_L.long()[gallery_n], columns, patch_size)
    return Correspondences(strength_n, query_n, gallery_n, query_box_n4, gallery_box_n4, mutual_n)


def _boxes(index_n: Tensor, columns: int, patch_size: int | tuple[int, int]) -> Tensor:
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    left_n, top_n = index_n % columns * width, index_n // columns * height
    return torch.stack([left_n, top_n, left_n + width, top_n + height], dim=1)
