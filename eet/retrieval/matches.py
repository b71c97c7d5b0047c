"""Report panels of re-ranked hits: a query and its first hits, with the regions that were matched most strongly."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from eet.figures import Paragraph, Picture, Side, matches_panel
from eet.gallery import Gallery, GalleryModel
from eet.images import DecodeFailure
from eet.retrieval.image_roots import ImageRoots
from eet.retrieval.panels import view_of
from eet.retrieval.regions import ImageTokens, Transport, matched_regions, region_columns

MATCHES_EXPLAINED = (
    "Lines join the patches that were matched most strongly, numbered from the strongest. Blue: each patch is the other's strongest match; "
    "orange: only one of them is. The pinker a patch, the more mass it has; with equal masses no patch is pink."
)
"""Text above the panels of `match_blocks`."""


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
    gallery_roots: ImageRoots | None = None,
    query_roots: ImageRoots | None = None,
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
        gallery_roots, query_roots: as in `eet.retrieval.panels.hit_blocks`.
    """
    transport = Transport(marginal=marginal, epsilon=epsilon, transported=transported, solver=solver)
    blocks: list[Paragraph | Picture] = []
    first = hits.filter(pc.less_equal(hits["rank"], top))
    for query_id in shown:
        query = _read(network, queries, query_id, query_roots)
        for row in first.filter(pc.equal(first["query_id"], query_id)).to_pylist():
            item = _read(network, gallery, row["item_id"], gallery_roots)
            if row["score_struct"] is None or query is None or item is None:
                continue
            panel = _panel(network, query, item, transport, captions=("query", f"rank {row['rank']}"))
            far = "" if row.get("metres") is None else f", {row['metres']:.0f} m"
            caption = f"{query_id} and {row['item_id']}: global {row['score_global']:.3f}, structural {row['score_struct']:.3f}{far}"
            blocks.append(Picture(panel, caption=caption, alt=f"regions of {query_id} matched with {row['item_id']}"))
    return blocks or [Paragraph("None of the queries shown has hits with tokens and readable images.")]


class _Seen(NamedTuple):
    """One image as the network saw it, and its stored tokens."""

    view: Image.Image
    tokens: ImageTokens


def _read(network: GalleryModel, gallery: Gallery, item_id: str, roots: ImageRoots | None) -> _Seen | None:
    row = gallery.rows([item_id], region_columns(gallery.manifest))
    if row["tokens"].null_count:
        return None
    view = view_of(network, gallery, item_id, roots)
    return None if isinstance(view, DecodeFailure) else _Seen(view, ImageTokens.of_row(row, gallery.manifest))


def _panel(network: GalleryModel, query: _Seen, item: _Seen, transport: Transport, *, captions: tuple[str, str]) -> Image.Image:
    found = matched_regions(query.tokens, item.tokens, transport, grid=network.grid, patch_size=network.patch_size)
    masses = (found.query_mass_K, found.item_mass_K)
    sides = [Side(one.view, one.tokens.index_K.numpy(), mass) for one, mass in zip((query, item), masses, strict=True)]
    return matches_panel(sides[0], sides[1], network.grid, found.lines, captions=captions, input_size=network.preprocessing.image_size)
