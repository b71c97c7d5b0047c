"""`eet report`: a self-contained HTML page of hits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from eet.errors import InputError
from eet.figures import Paragraph, Picture, Section, render_report
from eet.gallery import Gallery, GalleryModel, is_gallery, load_model, open_gallery, queries_gallery, read_hits, spread_queries
from eet.retrieval.matches import match_blocks
from eet.retrieval.panels import hit_blocks, kept_blocks, similarity_blocks
from eet.storage import join_location, write_text
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions
from pipelines.job.output import read_written_config, write_config

REPORT_FILE = "report.html"
MATCHED_QUERIES = 6


@dataclass(kw_only=True)
class ReportConfig(JobOptions):
    """Shows queries and their first hits, framed by whether they are right, the patches that the network kept, and how similar patches
    become from block to block. For re-ranked hits, it shows the order before and after, and the matched regions.

    Attributes:
        hits: Hits that `eet search` or `eet rerank` wrote.
        out: Folder for report.html.
        gallery: The gallery searched; default the one in the hits' config.
        queries: The gallery of the queries; default the one in the hits' config.
        model: Bundle, for the kept tokens; default the one in the hits' config, if any.
        num_queries: Number of queries to show, spread over the hits.
        top: Hits shown for each query.
    """

    hits: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    gallery: str | None = field(default=None, metadata=LOCATION)
    queries: str | None = field(default=None, metadata=LOCATION)
    model: str | None = field(default=None, metadata=LOCATION)
    num_queries: int = 20
    top: int = 5

    def problems(self) -> list[str]:
        few = [f"--{name} {value}: use 1 or more" for name in ("num_queries", "top") if (value := getattr(self, name)) < 1]
        return super().problems() + few


def run(config: ReportConfig) -> str:
    """Writes OUT/report.html and returns its location."""
    hits = read_hits(config.hits)
    written = described(config.hits)
    gallery_path = config.gallery or written.get("gallery")
    if gallery_path is None:
        raise InputError(f"{config.hits} has no config next to it that names its gallery: give --gallery")
    gallery = open_gallery(gallery_path)
    asked = config.queries or written.get("queries") or gallery_path
    queries = open_gallery(asked if is_gallery(asked) else queries_gallery(written.get("hits") or config.hits))
    model = config.model or written.get("model")
    page_at = join_location(config.out, REPORT_FILE)
    if config.dry_run:
        print(f"dry run: {config.num_queries} queries of {config.hits}, {config.top} hits each, into {page_at}; nothing was started")
        return page_at
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
            sections.append(Section("Matched regions", _matched(network, hits, shown, gallery, queries, written)))
        sections.append(Section("What the network kept", kept_blocks(network, queries, shown[:8])))
        if similar := similarity_blocks(network, queries, shown[:8]):
            sections.append(Section("Patch similarity", similar))
    page = render_report("Hits", sections, subtitle=f"{config.hits}, {gallery.manifest.num_ok} items, {gallery.manifest.num_bits} bits")
    write_text(page_at, page)
    print(page_at)
    return page_at


def described(hits: str) -> dict[str, Any]:
    """The config written with the hits; for re-ranked hits, completed by the config of the hits that were re-ranked."""
    written = read_written_config(hits) or {}
    source = written.get("hits")
    if source is None:
        return written
    return (read_written_config(source) or {}) | {name: value for name, value in written.items() if value is not None}


def _matched(
    network: GalleryModel, hits: pa.Table, shown: Sequence[str], gallery: Gallery, queries: Gallery, written: Mapping[str, Any]
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
    )
