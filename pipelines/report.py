"""`eet report`: a self-contained HTML page of hits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from eet.figures import Paragraph, Picture, Section, hits_panel, kept_tokens_overlay, render_report
from eet.gallery import Gallery, GalleryModel, load_model, open_gallery, read_hits, spread_queries
from eet.images import DecodeFailure, read_image
from pipelines.galleries import is_gallery, queries_gallery
from pipelines.options import JobOptions
from pipelines.output import read_written_config, write_config
from pipelines.report_matches import match_blocks

REPORT_FILE = "report.html"
MATCHED_QUERIES = 6


@dataclass(kw_only=True)
class ReportConfig(JobOptions):
    """Shows queries and their first hits, right and wrong framed, and what the network kept of each query. Of re-ranked hits, what was
    before and after, and which regions were matched.

    Attributes:
        hits: Hits that `eet search` or `eet rerank` wrote.
        out: Folder for report.html.
        gallery: The gallery searched; default what the hits' config names.
        queries: The gallery of queries; default likewise.
        model: Bundle, for the kept tokens; default likewise, and left out where it names none.
        num_queries: How many queries are shown, spread over the hits.
        top: Hits shown for each.
    """

    hits: str
    out: str
    gallery: str | None = None
    queries: str | None = None
    model: str | None = None
    num_queries: int = 20
    top: int = 5

    def problems(self) -> list[str]:
        few = [f"--{name} {value}: use 1 or more" for name in ("num_queries", "top") if (value := getattr(self, name)) < 1]
        return super().problems() + few


def run(config: ReportConfig) -> Path:
    """Writes OUT/report.html and returns its path."""
    hits = read_hits(config.hits)
    written = described(config.hits)
    gallery_path = config.gallery or written.get("gallery")
    if gallery_path is None:
        raise ValueError(f"{config.hits} has no config beside it that names its gallery: give --gallery")
    gallery = open_gallery(gallery_path)
    asked = config.queries or written.get("queries") or gallery_path
    queries = open_gallery(asked if is_gallery(asked) else queries_gallery(written.get("hits") or config.hits))
    model = config.model or written.get("model")
    out = Path(config.out)
    if config.dry_run:
        print(
            f"dry run: {config.num_queries} queries of {config.hits}, {config.top} hits each, into {out / REPORT_FILE}; nothing was started"
        )
        return out / REPORT_FILE
    out.mkdir(parents=True, exist_ok=True)
    write_config(config.out, config)
    shown = spread_queries(hits, config.num_queries)
    found = hit_blocks(hits, shown, gallery, queries, top=config.top)
    reranked = "hits" in written
    sections = [Section("After re-ranking" if reranked else "Queries and their nearest items", found)]
    if reranked:
        before = hit_blocks(read_hits(written["hits"]), shown, gallery, queries, top=config.top)
        sections.insert(0, Section("Before re-ranking", before))
    if model is not None:
        network = load_model(model)
        if reranked:
            sections.append(Section("Matched regions", match_blocks(network, hits, shown[:MATCHED_QUERIES], gallery, queries, written)))
        sections.append(Section("What the network kept", kept_blocks(network, queries, shown[:8])))
    page = render_report("Hits", sections, subtitle=f"{config.hits}, {gallery.manifest.num_ok} items, {gallery.manifest.num_bits} bits")
    (out / REPORT_FILE).write_text(page)
    print(out / REPORT_FILE)
    return out / REPORT_FILE


def described(hits: str) -> dict[str, Any]:
    """What the config beside hits says; of re-ranked ones, also what the config beside those says that they were made of."""
    written = read_written_config(hits) or {}
    source = written.get("hits")
    if source is None:
        return written
    return (read_written_config(source) or {}) | {name: value for name, value in written.items() if value is not None}


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


def _agrees(row: dict) -> bool | None:
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
