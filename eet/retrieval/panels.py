"""Report panels of queries with their hits, and of the patches that the network kept."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from eet.figures import Paragraph, Picture, Table, hits_panel, kept_tokens_overlay, patch_similarity_figure, save_png
from eet.gallery import Gallery, GalleryModel
from eet.images import DecodeFailure, read_image
from eet.matching import patch_similarity
from eet.retrieval.image_roots import OUTSIDE, ImageRoots
from eet.vit import Student


def image_of(gallery: Gallery, item_id: str, roots: ImageRoots | None = None) -> Image.Image | DecodeFailure:
    """The image of an item; or why it cannot be read, or lies under none of the roots. None: it may lie anywhere."""
    uri = _uri_of(gallery, item_id)
    return (None if roots is None else roots.refusal(uri)) or read_image(uri)


def view_of(network: GalleryModel, gallery: Gallery, item_id: str, roots: ImageRoots | None = None) -> Image.Image | DecodeFailure:
    """As `image_of`, as the network sees it."""
    uri = _uri_of(gallery, item_id)
    return (None if roots is None else roots.refusal(uri)) or network.preprocessing.read(uri)


def _uri_of(gallery: Gallery, item_id: str) -> str:
    return gallery.rows([item_id], columns=["item_id", "uri"])["uri"][0].as_py()


def hit_blocks(
    hits: pa.Table,
    shown: Sequence[str],
    gallery: Gallery,
    queries: Gallery,
    *,
    top: int,
    metres: float | None = None,
    gallery_roots: ImageRoots | None = None,
    query_roots: ImageRoots | None = None,
) -> list[Paragraph | Picture]:
    """A panel for each query: its image and first hits, framed by whether they are right.

    Captions have what made the order: the distance of a search by code, otherwise the score. A hit below the re-ranked ones has neither.

    metres: right is what lies within this distance; None: what has the query's label.
    gallery_roots, query_roots: where images of either side may lie; None: anywhere. A paragraph says which are left out, and why.
    """
    names = gallery.manifest.label_names
    blocks: list[Paragraph | Picture] = []
    first = hits.filter(pc.less_equal(hits["rank"], top))
    by_code = _ordered_by_code(hits)
    for query_id in shown:
        rows = first.filter(pc.equal(first["query_id"], query_id)).to_pylist()
        query = image_of(queries, query_id, query_roots)
        if isinstance(query, DecodeFailure):
            blocks.append(Paragraph(f"{query_id}: its image {_reason(query)}"))
            continue
        images = [(image_of(gallery, row["item_id"], gallery_roots), row) for row in rows]
        panels = [(image, _is_right(row, metres)) for image, row in images if not isinstance(image, DecodeFailure)]
        captions = [
            "\n".join(filter(None, [_label_name(row["item_label"], names), _order_text(row, by_code=by_code), _metres_text(row)]))
            for image, row in images
            if not isinstance(image, DecodeFailure)
        ]
        label = _label_name(rows[0]["query_label"], names) if rows else ""
        panel = hits_panel(query, panels, captions=captions, query_caption=f"query\n{label}")
        blocks.append(Picture(panel, caption=query_id, alt=f"{query_id} and its {len(panels)} nearest items"))
        blocks += [Paragraph(f"{row['item_id']}: its image {_reason(image)}") for image, row in images if isinstance(image, DecodeFailure)]
    return blocks


def correct_hits(hits: pa.Table, query_ids: Sequence[str], *, top: int) -> dict[str, int]:
    """How many of the first `top` hits have the query's label, for each of these queries."""
    first = hits.filter(pc.and_(pc.is_in(hits["query_id"], pa.array(query_ids)), pc.less_equal(hits["rank"], top)))
    right = first.filter(pc.equal(first["query_label"], first["item_label"]))["query_id"].to_pylist()
    return {query_id: right.count(query_id) for query_id in query_ids}


def _reason(failure: DecodeFailure) -> str:
    return failure.error if failure.status == OUTSIDE else f"can no longer be read ({failure.status})"


def _ordered_by_code(hits: pa.Table) -> bool:
    """Whether a search by code made these hits: `eet.retrieval.search.code_scores` lie within half a bit of minus the distance."""
    off_H = hits["score"].to_numpy() + hits["distance"].to_numpy()
    return "score_global" not in hits.column_names and bool((np.abs(off_H) < 0.5).all())


def _order_text(row: dict[str, Any], *, by_code: bool) -> str:
    if by_code:
        return f"distance {row['distance']}"
    # Scores of hits that were not re-ranked are made from their neighbours'.
    return "not re-ranked" if "score_global" in row and row["score_global"] is None else f"score {row['score']:.3f}"


def _metres_text(row: dict[str, Any]) -> str:
    return "" if row.get("metres") is None else f"{row['metres']:.0f} m"


def _is_right(row: dict[str, Any], metres: float | None) -> bool | None:
    """None where it is unknown."""
    if metres is not None:
        return None if row.get("metres") is None else bool(row["metres"] <= np.float32(metres))
    if row["query_label"] is None or row["item_label"] is None:
        return None
    return row["query_label"] == row["item_label"]


def _label_name(label: int | None, names: Sequence[str] | None) -> str:
    if label is None:
        return ""
    return names[label] if names and label < len(names) else str(label)


@torch.inference_mode()
def kept_blocks(
    network: GalleryModel, queries: Gallery, shown: Sequence[str], *, roots: ImageRoots | None = None
) -> list[Paragraph | Picture]:
    """For each query, the patches that each pruning stage kept, drawn over what the network saw. roots: as in `image_of`."""
    blocks: list[Paragraph | Picture] = []
    for query_id in shown:
        view = view_of(network, queries, query_id, roots)
        if isinstance(view, DecodeFailure):
            continue
        out = network(network.preprocessing.normalise(np.array(view)).unsqueeze(0))
        kept = [stage[0].numpy() for stage in out.kept]
        if not kept:
            return [Paragraph("This model prunes nothing: it keeps every patch.")]
        mass = None if out.token_mass is None else out.token_mass[0].float().numpy()
        overlay = kept_tokens_overlay(view, kept, network.grid, mass=mass)
        blocks.append(Picture(overlay, caption=query_id, alt=f"patches kept of {query_id} at each stage"))
    return blocks


@torch.inference_mode()
def similarity_blocks(
    network: GalleryModel, queries: Gallery, shown: Sequence[str], *, roots: ImageRoots | None = None
) -> list[Paragraph | Picture | Table]:
    """How similar the patches of the queries become, block by block, without pruning: a plot and a table.

    Empty for a base model, whose backbone may have no such blocks.
    """
    if not isinstance(network, Student):
        return []
    views = [view_of(network, queries, query_id, roots) for query_id in shown]
    inputs = [network.preprocessing.normalise(np.array(view)) for view in views if not isinstance(view, DecodeFailure)]
    if not inputs:
        return []
    similarities = {network.backbone or "model": patch_similarity(network.trunk, torch.stack(inputs))}
    figure, table = patch_similarity_figure(similarities, title=f"Mean over {len(inputs)} queries, nothing pruned")
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        save_png(figure, file.name)
        drawn = Path(file.name).read_bytes()
    return [Picture(drawn, caption="How similar the patches of an image become", alt="mean cosine of two patches after each block"), table]
