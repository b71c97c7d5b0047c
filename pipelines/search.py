"""`eet search`: the nearest items of a gallery for every query."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from eet.device import Device
from eet.errors import InputError
from eet.gallery import (
    MANIFEST_NAME,
    Gallery,
    check_made_by,
    check_same_model,
    is_gallery,
    open_gallery,
    queries_gallery,
    read_model_record,
    write_hits,
)
from eet.retrieval.gallery_index import GalleryIndex, missing_parts
from eet.retrieval.recall import Search, measured_recall
from eet.retrieval.rerank import RESCORE_WEIGHT, match_options, rescored_hits
from eet.retrieval.search import search_gallery
from eet.storage import replace_folder, same_location
from pipelines.actors.shards import sharded_search
from pipelines.encode import EncodeConfig
from pipelines.encode import run as encode
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions
from pipelines.job.output import is_table, write_config


@dataclass(kw_only=True)
class SearchConfig(JobOptions):
    """Ranks a gallery's items by Hamming distance to each query.

    Attributes:
        gallery: Gallery that `eet encode` wrote.
        queries: A folder of images, one image, or another gallery of the same model; it may be the gallery itself; then no item is its own
            hit.
        model: Bundle that encodes query images; not needed if the queries are a gallery.
        k: Hits for each query.
        index: Folder that `eet index` wrote for the gallery, so that the search starts at once. An ivf index is approximate: its recall is
            measured, printed, and stored in the hits file (Parquet metadata, eet.recall).
        probes: Lists of an ivf index that a query searches; default 16. More lists find more hits and take longer; with all of them the
            search is exact.
        recall_queries: Number of queries that are also searched exactly, to measure the recall of an approximate search.
        rescore: Re-order this many hits of each query by codes and the stored final CLS vectors; the gallery must have been encoded with
            --embedding, in any form (--embedding-as int4 takes half a byte a dimension).
        rescore_weight: Weight of the cosine of the CLS vectors; codes have weight 1.
        shards: Ray actors among which the parts of the gallery are divided, if it is too large for one machine; 1 searches in this
            process.
        out: Parquet file of hits. Query images are encoded into a small gallery next to it, NAME.queries.
    """

    gallery: str = field(metadata=LOCATION)
    queries: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    model: str | None = field(default=None, metadata=LOCATION)
    k: int = 100
    index: str | None = field(default=None, metadata=LOCATION)
    probes: int | None = None
    recall_queries: int = 64
    rescore: int = 0
    rescore_weight: float = RESCORE_WEIGHT
    shards: int = 1

    def problems(self) -> list[str]:
        found = super().problems()
        if self.k < 1:
            found.append(f"--k {self.k}: ask for 1 hit or more")
        if self.probes is not None and self.probes < 1:
            found.append(f"--probes {self.probes}: use 1 or more")
        if self.probes is not None and self.index is None:
            found.append("--probes needs an --index of kind ivf")
        if self.recall_queries < 1:
            found.append(f"--recall_queries {self.recall_queries}: use 1 or more")
        if not 0 <= self.rescore <= self.k:
            found.append(f"--rescore {self.rescore}: use 0 (none) to --k {self.k}")
        if not 0 < self.rescore_weight < float("inf"):
            found.append(f"--rescore_weight {self.rescore_weight}: use above 0")
        if self.shards < 1:
            found.append(f"--shards {self.shards}: use 1 or more")
        if self.index is not None and self.shards > 1:
            found.append("--index and --shards are both given: an index is searched in one process; choose one")
        if not is_table(self.out):
            found.append(f"--out {self.out}: hits are one Parquet file, so its name ends in .parquet")
        return found


def run(config: SearchConfig) -> pa.Table:
    """Writes the hits and returns them."""
    gallery = open_gallery(config.gallery)
    if is_gallery(config.queries):
        queries = open_gallery(config.queries)
    else:
        if config.model is None:
            raise InputError(f"--queries {config.queries} is no gallery, so --model is needed to encode its images")
        if config.dry_run:
            _print_plan(gallery, config)
            return pa.table({})
        queries = _encode_queries(config, gallery)
    check_same_model(gallery, queries)
    if config.rescore:  # before the search starts
        match_options(gallery, queries, embedding_weight=config.rescore_weight, tokens=False)
    if config.dry_run:
        _print_plan(gallery, config)
        return pa.table({})
    recall = None
    with opened_search(config, gallery) as (search, exact):
        hits = search_gallery(gallery, queries, k=config.k, search=search)
        if exact is not None and queries.manifest.num_ok:
            k = config.k + same_location(gallery.path, queries.path)
            found = measured_recall(search, exact, queries.codes()[0], k, query_hash=queries.hashes(), sample=config.recall_queries)
            recall = {**found, "k": config.k}
    if config.rescore:
        hits = rescored_hits(hits, gallery, queries, top=config.rescore, weight=config.rescore_weight)
    write_config(config.out, config)
    write_hits(config.out, hits, recall=recall)
    print(f"{config.out}: {len(hits)} hits for {queries.manifest.num_ok} queries")
    if recall is not None:
        _print_recall(recall, hits, gallery, queries)
    return hits


def _print_recall(recall: dict[str, float], hits: pa.Table, gallery: Gallery, queries: Gallery) -> None:
    k = int(recall["k"])
    print(f"approximate: recall@{k} {recall['recall']:.4f} against exact search, on {int(recall['queries'])} queries")
    items = gallery.manifest.num_ok - same_location(gallery.path, queries.path)
    full = pc.sum(pc.equal(hits["rank"], min(k, items))).as_py() or 0
    if full < queries.manifest.num_ok:
        print(f"note: {queries.manifest.num_ok - full} queries got fewer hits than requested: their lists hold no more; use more --probes")


def _print_plan(gallery: Gallery, config: SearchConfig) -> None:
    print(
        f"dry run: {config.queries} against {gallery.manifest.num_ok} codes of "
        f"{gallery.manifest.num_bits} bits, {config.k} hits each"
        + (f", {config.rescore} of them re-ordered by embeddings" if config.rescore else "")
        + "; nothing was started"
    )


def _encode_queries(config: SearchConfig, gallery: Gallery) -> Gallery:
    """Encodes the query images into a gallery next to the hits, with real-valued hashes, which order hits of equal distance.

    They are encoded again for each search, because images may have changed. Queries of an earlier search with the same output stay until
    the new ones are complete.
    """
    assert config.model is not None
    check_made_by(gallery, read_model_record(config.model), f"--model {config.model}")
    out = queries_gallery(config.out)
    if same_location(out, config.gallery):
        raise InputError(f"--out {config.out} would write its queries to {out}, which is the --gallery: choose another name")
    with replace_folder(out, MANIFEST_NAME) as fresh:
        encode(
            EncodeConfig(
                model=config.model, images=config.queries, out=fresh, tokens=True, embedding=True, hash=True, engine="local",
                max_error_ratio=1.0,
            ),
            recorded_out=out,
        )  # fmt: skip
    return open_gallery(out)


@contextmanager
def opened_search(config: SearchConfig, gallery: Gallery) -> Iterator[tuple[Search, Search | None]]:
    """Yields the search of the config: over an index on disk, over shards on Ray, or over the gallery read into this process.

    The second value is the exact search if the first is approximate, else None.
    """
    device = Device.of().type
    if config.index is not None:
        missing = missing_parts(config.index, gallery)
        if missing:
            raise InputError(
                f"--index {config.index} lacks {len(missing)} of the gallery's {gallery.manifest.num_parts} parts: extend it with "
                f"`eet index --gallery {config.gallery} --out {config.index}`"
            )
        index = GalleryIndex.load(config.index)
        if config.probes is not None:
            try:
                index = replace(index, codes=index.codes.with_probes(config.probes))
            except ValueError as error:
                raise InputError(f"--index {config.index} with --probes {config.probes}: {error}") from error
        exact = None if index.codes.is_exact else partial(replace(index, codes=index.codes.exact()).search, device=device)
        yield partial(index.search, device=device), exact
    elif config.shards > 1:
        with sharded_search(gallery, config.shards, address=config.ray_address) as search:
            yield search, None
    else:
        yield partial(GalleryIndex.of_gallery(gallery).search, device=device), None
