"""`eet report`: a self-contained HTML page of hits."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from eet.errors import InputError
from eet.figures import Paragraph, Picture, Section, render_report
from eet.gallery import (
    Gallery,
    GalleryModel,
    check_encoded_for,
    is_gallery,
    load_model,
    open_gallery,
    queries_gallery,
    read_hits,
    spread_queries,
)
from eet.retrieval.image_roots import ImageRoots, roots_of
from eet.retrieval.matches import MATCHES_EXPLAINED, match_blocks
from eet.retrieval.metres import DEFAULT_METRES, radius_of
from eet.retrieval.panels import hit_blocks, kept_blocks, similarity_blocks
from eet.retrieval.place_blocks import place_blocks
from eet.storage import join_location, write_text
from pipelines.configs.report import ReportConfig
from pipelines.job.output import check_own_folder, options_of_hits, write_config

REPORT_FILE = "report.html"
MATCHED_QUERIES = 6


def run(config: ReportConfig) -> str:
    """Writes OUT/report.html and returns its location."""
    check_own_folder(config)
    hits = read_hits(config.hits)
    written = described(config.hits)
    gallery_path = config.gallery or written.get("gallery")
    if gallery_path is None:
        raise InputError(f"{config.hits} has no config next to it that names its gallery: give --gallery")
    gallery = open_gallery(gallery_path)
    asked = config.queries or written.get("queries") or gallery_path
    queries = open_gallery(asked if is_gallery(asked) else queries_gallery(written.get("hits") or config.hits))
    check_encoded_for(config.hits, queries)
    model = config.model or written.get("model")
    network = None if model is None else load_model(model)
    page_at = join_location(config.out, REPORT_FILE)
    if config.dry_run:
        print(f"dry run: {config.num_queries} queries of {config.hits}, {config.top} hits each, into {page_at}; nothing was started")
        return page_at
    metres = radius_of(gallery, queries, config.metres)
    shown = spread_queries(hits, config.num_queries)
    gallery_roots, query_roots = (ImageRoots(config.image_roots or roots_of(side)) for side in (gallery, queries))
    panels = partial(
        hit_blocks, shown=shown, gallery=gallery, queries=queries, top=config.top, metres=metres, gallery_roots=gallery_roots,
        query_roots=query_roots,
    )  # fmt: skip
    found = panels(hits)
    reranked = "hits" in written
    sections = [Section("After re-ranking" if reranked else "Queries and their nearest items", found)]
    if reranked:
        before = panels(read_hits(written["hits"]))
        sections.insert(0, Section("Before re-ranking", before))
    if "metres" in hits.column_names:
        sections.insert(0, Section("Map", place_blocks(hits, gallery, queries, metres=DEFAULT_METRES if metres is None else metres)))
    if network is not None:
        if reranked:
            matched = _matched(network, hits, shown, gallery, queries, written, (gallery_roots, query_roots))
            sections.append(Section("Matched regions", [Paragraph(MATCHES_EXPLAINED), *matched]))
        sections.append(Section("What the network kept", kept_blocks(network, queries, shown[:8], roots=query_roots)))
        if similar := similarity_blocks(network, queries, shown[:8], roots=query_roots):
            sections.append(Section("Patch similarity", similar))
    page = render_report("Hits", sections, subtitle=f"{config.hits}, {gallery.manifest.num_ok} items, {gallery.manifest.num_bits} bits")
    write_config(config.out, config)
    write_text(page_at, page)
    outside = sum(isinstance(block, Paragraph) and "lies outside of" in block.text for block in found)
    if outside:
        print(f"note: {outside} images lie outside of the galleries' inputs and are not shown: name their folders in --image_roots")
    print(page_at)
    return page_at


def described(hits: str) -> dict[str, Any]:
    """The options that made the hits; for re-ranked hits, completed by those of the hits that were re-ranked."""
    written = options_of_hits(hits)
    source = written.get("hits")
    if source is None:
        return written
    return options_of_hits(source) | {name: value for name, value in written.items() if value is not None}


def _matched(
    network: GalleryModel,
    hits: pa.Table,
    shown: Sequence[str],
    gallery: Gallery,
    queries: Gallery,
    written: Mapping[str, Any],
    roots: tuple[ImageRoots, ImageRoots],
) -> list[Paragraph | Picture]:
    """Matched regions of the first queries, by the options that the hits were re-ranked with."""
    return match_blocks(
        network,
        hits,
        shown[:MATCHED_QUERIES],
        gallery,
        queries,
        marginal=str(written["marginal"]),
        epsilon=float(written["epsilon"]),
        transported=float(written["transported"]),
        solver=str(written["solver"]),
        gallery_roots=roots[0],
        query_roots=roots[1],
    )
