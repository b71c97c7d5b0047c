"""Pictures of queries and their hits, and of what the network kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from eet.figures import Paragraph, Picture, hits_panel, kept_tokens_overlay
from eet.gallery import Gallery, GalleryModel
from eet.images import DecodeFailure, read_image


def picture_of(gallery: Gallery, item_id: str) -> Image.Image | None:
    """The item's picture, or None where it cannot be read any more."""
    image = read_image(_uri_of(gallery, item_id))
    return None if isinstance(image, DecodeFailure) else image


def _uri_of(gallery: Gallery, item_id: str) -> str:
    return gallery.rows([item_id], columns=["item_id", "uri"])["uri"][0].as_py()


def hit_blocks(hits: pa.Table, shown: Sequence[str], gallery: Gallery, queries: Gallery, *, top: int) -> list[Paragraph | Picture]:
    """A panel for each query: the picture and its first hits, framed by whether the labels agree."""
    names = gallery.manifest.label_names
    blocks: list[Paragraph | Picture] = []
    first = hits.filter(pc.less_equal(hits["rank"], top))
    for query_id in shown:
        rows = first.filter(pc.equal(first["query_id"], query_id)).to_pylist()
        query = picture_of(queries, query_id)
        pictures = [(picture_of(gallery, row["item_id"]), row) for row in rows]
        panels = [(picture, _agrees(row)) for picture, row in pictures if picture is not None]
        if query is None:
            blocks.append(Paragraph(f"{query_id}: its picture cannot be read any more"))
            continue
        captions = [
            f"{_label_name(row['item_label'], names)}\ndistance {row['distance']}" for picture, row in pictures if picture is not None
        ]
        label = _label_name(rows[0]["query_label"], names) if rows else ""
        panel = hits_panel(query, panels, captions=captions, query_caption=f"query\n{label}")
        blocks.append(Picture(panel, caption=query_id, alt=f"{query_id} and its {len(panels)} nearest items"))
    return blocks


def _agrees(row: dict[str, Any]) -> bool | None:
    if row["query_label"] is None or row["item_label"] is None:
        return None
    return row["query_label"] == row["item_label"]


def _label_name(label: int | None, names: Sequence[str] | None) -> str:
    if label is None:
        return ""
    return names[label] if names and label < len(names) else str(label)


@torch.inference_mode()
def kept_blocks(network: GalleryModel, queries: Gallery, shown: Sequence[str]) -> list[Paragraph | Picture]:
    """For each query, the patches that each pruning stage kept, drawn over what the network saw."""
    blocks: list[Paragraph | Picture] = []
    for query_id in shown:
        view = network.preprocessing.read(_uri_of(queries, query_id))
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
