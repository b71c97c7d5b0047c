"""Report panels of re-ranked hits: a query and its first hits, with the regions that were matched most strongly."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from eet.figures import Line, Paragraph, Picture, Side, matches_panel
from eet.gallery import Gallery, GalleryModel, fixed_binary_to_numpy
from eet.images import DecodeFailure
from eet.matching import MARGINALS, correspondences, structural_similarity
from eet.matching.token_set import unit_length
from eet.retrieval.pairs import needed_columns, token_set

LINES = 5


class Transport(NamedTuple):
    """Options of the matching in the re-ranking."""

    marginal: str
    epsilon: float
    transported: float
    solver: str


def match_blocks(
    network: GalleryModel,
    hits: pa.Table,
    shown: Sequence[str],
    gallery: Gallery,
    queries: Gallery,
    *,
    marginal: str = "importance",
    epsilon: float = 0.05,
    transported: float = 1.0,
    solver: str = "sinkhorn",
    top: int = 3,
) -> list[Paragraph | Picture]:
    """Panels of each query with its first `top` hits: tokens, their mass, lines for the strongest matches.

    Args:
        network: the model that encoded the galleries.
        hits: re-ranked hits.
        shown: ids of the queries to show.
        gallery: the searched gallery.
        queries: the gallery of the queries.
        marginal: as in the re-ranking.
        epsilon: as in the re-ranking.
        transported: as in the re-ranking.
        solver: as in the re-ranking.
        top: number of hits for each query.
    """
    transport = Transport(marginal, epsilon, transported, solver)
    blocks: list[Paragraph | Picture] = []
    first = hits.filter(pc.less_equal(hits["rank"], top))
    for query_id in shown:
        query = _read(network, queries, query_id)
        for row in first.filter(pc.equal(first["query_id"], query_id)).to_pylist():
            item = _read(network, gallery, row["item_id"])
            if row["score_struct"] is None or query is None or item is None:
                continue
            panel = _panel(network, query, item, transport, captions=("query", f"rank {row['rank']}"))
            caption = f"{query_id} and {row['item_id']}: global {row['score_global']:.3f}, structural {row['score_struct']:.3f}"
            blocks.append(Picture(panel, caption=caption, alt=f"regions of {query_id} matched with {row['item_id']}"))
    return blocks or [Paragraph("None of the queries shown has hits with tokens and readable images.")]


class _Tokens:
    """One image as the network saw it, and its stored tokens."""

    def __init__(self, view: Any, gallery: Gallery, row: pa.Table) -> None:
        tokens = token_set(row, gallery.manifest)  # not rotated: the two sides may be stored in different forms
        assert tokens.mass_NK is not None
        self.view = view
        self.tokens_KD = torch.tensor(np.asarray(tokens.tokens_NKD[0], np.float32))
        self.mass_K = torch.tensor(np.asarray(tokens.mass_NK[0], np.float32))
        self.centre_D = self.tokens_KD.new_tensor(np.asarray(tokens.center_ND[0], np.float32)) if tokens.center_ND is not None else None
        self.index_K = torch.tensor(fixed_binary_to_numpy(row["token_index"], "<u2", (len(self.mass_K),))[0].astype(np.int64))


def _read(network: GalleryModel, gallery: Gallery, item_id: str) -> _Tokens | None:
    columns = [*needed_columns(embeddings=gallery.manifest.embedding_dim is not None), "token_index", "uri"]
    row = gallery.rows([item_id], columns)
    if row["tokens"].null_count:
        return None
    view = network.preprocessing.read(row["uri"][0].as_py())
    return None if isinstance(view, DecodeFailure) else _Tokens(view, gallery, row)


def _panel(network: GalleryModel, query: _Tokens, item: _Tokens, transport: Transport, *, captions: tuple[str, str]) -> Any:
    centres = query.centre_D is not None and item.centre_D is not None
    masses = [_mass(mine, other, transport.marginal, centres=centres) for mine, other in ((query, item), (item, query))]
    _, plan_1KL = structural_similarity(
        query.tokens_KD, item.tokens_KD[None], masses[0], masses[1][None],
        epsilon=transport.epsilon, transported=transport.transported, solver=transport.solver,
    )  # fmt: skip
    found = correspondences(
        query.tokens_KD, item.tokens_KD, plan_1KL[0], query.index_K, item.index_K,
        grid=network.grid, patch_size=network.patch_size, count=LINES,
    )  # fmt: skip
    lines = [
        Line(int(query.index_K[k]), int(item.index_K[m]), float(strength), bool(mutual))
        for k, m, strength, mutual in zip(found.query_token_n, found.gallery_token_n, found.strength_n, found.mutual_n, strict=True)
    ]
    sides = [Side(one.view, one.index_K.numpy(), mass.numpy()) for one, mass in zip((query, item), masses, strict=True)]
    return matches_panel(sides[0], sides[1], network.grid, lines, captions=captions)


def _mass(mine: _Tokens, other: _Tokens, marginal: str, *, centres: bool) -> torch.Tensor:
    """The marginal of an image, as in the re-ranking. centres: both images have a stored centre."""
    weigh = MARGINALS[marginal].weigh
    if MARGINALS[marginal].reads == "mass":
        return weigh(mine.mass_K)
    tokens = unit_length(mine.tokens_KD)
    centre = other.centre_D if centres else unit_length(other.tokens_KD).mean(dim=0)
    assert centre is not None
    return weigh(tokens @ unit_length(centre))
