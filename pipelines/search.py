"""`eet search`: the nearest items of a gallery for every query."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from eet.device import Device
from eet.errors import InputError
from eet.gallery import (
    QUERIES_FOLDER,
    Gallery,
    check_made_by,
    check_same_model,
    is_gallery,
    open_gallery,
    queries_gallery,
    read_model_record,
    write_hits,
)
from eet.options.defaults import number_of_hits
from eet.retrieval.embedding_search import EmbeddingSearch, check_embeddings
from eet.retrieval.gallery_index import GalleryIndex
from eet.retrieval.recall import Search, measured_recall, recall_as_text
from eet.retrieval.rerank import rescore_options, rescored_hits
from eet.retrieval.search import search_gallery
from eet.search import check_backend
from eet.storage import join_location, replace_folder, same_location, write_text
from pipelines.configs.search import SearchConfig
from pipelines.encode import EncodeConfig
from pipelines.encode import run as encode
from pipelines.index import check_covers
from pipelines.job.address import check_address
from pipelines.job.output import config_values, name_of, write_config
from pipelines.job.printed_hits import hits_table, item_uris, print_for_pipe


def run(config: SearchConfig) -> pa.Table:
    """Writes the hits, prints them as config.format says, and returns them."""
    if config.format != "paths":
        return _search(config)
    with redirect_stdout(sys.stderr):  # so that a pipe gets nothing but the locations
        hits = _search(config)
    print_for_pipe(item_uris(hits, open_gallery(config.gallery)))
    return hits


def _search(config: SearchConfig) -> pa.Table:
    config = replace(config, k=number_of_hits(config.k, config.radius))
    check_backend(config.backend)
    if config.shards > 1:
        check_address(config.ray_address)
    gallery = open_gallery(config.gallery)
    encodes = not is_gallery(config.queries)
    if encodes and config.model is None:
        raise InputError(f"--queries {config.queries} is no gallery, so --model is needed to encode its images")
    if config.dry_run:
        if not encodes:
            _check_queries(config, gallery, open_gallery(config.queries))
        _print_plan(gallery, config)
        return pa.table({})
    with _encoded_queries(config, gallery) if encodes else nullcontext(open_gallery(config.queries)) as queries:
        _check_queries(config, gallery, queries)
        hits, recall = _searched(config, gallery, queries)
        digest = queries.digest() if encodes else None
    # The queries are in place now. Hits of an earlier search do not have their digest, so a kill here is noticed.
    write_config(config.out, config)
    write_hits(config.out, hits, recall=recall, queries_digest=digest, options=config_values(config))
    if config.format == "table":
        for line in hits_table(hits, gallery, by_embedding=config.by == "embedding"):
            print(line)
    print(f"{config.out}: {len(hits)} hits for {queries.manifest.num_ok} queries")
    if recall is not None:
        _print_recall(recall, hits, gallery, queries)
    return hits


def _check_queries(config: SearchConfig, gallery: Gallery, queries: Gallery) -> None:
    """InputError where the gallery cannot be searched with these queries."""
    check_same_model(gallery, queries)
    if config.by == "embedding":
        check_embeddings(gallery, queries)
    if config.rescore:
        rescore_options(gallery, queries, config.rescore_weight)


def _searched(config: SearchConfig, gallery: Gallery, queries: Gallery) -> tuple[pa.Table, dict[str, float] | None]:
    """The hits, and the measured recall where the search is approximate."""
    recall = None
    if config.by == "embedding":
        return search_gallery(gallery, queries, k=config.k, embeddings=EmbeddingSearch(gallery, device=Device.of().type)), None
    with opened_search(config, gallery) as (search, exact):
        hits = search_gallery(gallery, queries, k=config.k, search=search)
        if exact is not None and queries.manifest.num_ok:
            k = None if config.k is None else config.k + same_location(gallery.path, queries.path)
            found = measured_recall(search, exact, queries.codes()[0], k, query_hash=queries.hashes(), sample=config.recall_queries)
            recall = {**found, **{name: value for name in ("k", "radius") if (value := getattr(config, name)) is not None}}
    if config.rescore:
        hits = rescored_hits(hits, gallery, queries, top=config.rescore, weight=config.rescore_weight)
    return hits, recall


def _print_recall(recall: dict[str, float], hits: pa.Table, gallery: Gallery, queries: Gallery) -> None:
    print(f"approximate: {recall_as_text(recall)} against exact search, on {int(recall['queries'])} queries")
    if "radius" in recall:
        return
    items = gallery.manifest.num_ok - same_location(gallery.path, queries.path)
    full = pc.sum(pc.equal(hits["rank"], min(int(recall["k"]), items))).as_py() or 0
    if full < queries.manifest.num_ok:
        print(f"note: {queries.manifest.num_ok - full} queries got fewer hits than requested: no more was found; use more --probes")


def _print_plan(gallery: Gallery, config: SearchConfig) -> None:
    print(
        f"dry run: {config.queries} against {gallery.manifest.num_ok} codes of "
        f"{gallery.manifest.num_bits} bits, "
        + ("all" if config.k is None else f"{config.k}")
        + " hits each"
        + (f" within {config.radius} bits" if config.radius is not None else "")
        + (f", {config.rescore} of them re-ordered" if config.rescore else "")
        + "; nothing was started"
    )


@contextmanager
def _encoded_queries(config: SearchConfig, gallery: Gallery) -> Iterator[Gallery]:
    """Encodes the query images, in the precision of the gallery, into one with real-valued hashes, which order hits of equal distance.

    Yields it. At the end of the block it is put next to the hits, in place of the queries of an earlier search with the same output. Images
    are encoded again for each search, because they may have changed.
    """
    assert config.model is not None
    check_made_by(gallery, read_model_record(config.model), f"--model {config.model}")
    out = queries_gallery(config.out)
    if same_location(out, config.gallery):
        raise InputError(f"--out {config.out} would write its queries to {out}, which is the --gallery: choose another name")
    with replace_folder(out, QUERIES_FOLDER) as fresh:
        encode(
            EncodeConfig(
                model=config.model, images=config.queries, out=fresh, tokens=True, embedding=True, hash=True, engine="local",
                max_error_ratio=1.0, precision=gallery.manifest.precision,
            ),
            recorded_out=out,
        )  # fmt: skip
        write_text(join_location(fresh, QUERIES_FOLDER.marker), json.dumps({"hits": name_of(config.out)}) + "\n")
        yield open_gallery(fresh)


@contextmanager
def opened_search(config: SearchConfig, gallery: Gallery) -> Iterator[tuple[Search, Search | None]]:
    """Yields the search of the config: over an index on disk, over shards on Ray, or over the gallery read into this process.

    The second value is the exact search if the first is approximate, else None.
    """
    device = Device.of().type

    def search_of(index: GalleryIndex) -> Search:
        return partial(index.with_backend(config.backend, device).search, radius=config.radius, device=device)

    if config.index is not None:
        check_covers(config.index, gallery)
        index = GalleryIndex.load(config.index)
        if config.probes is not None:
            try:
                index = replace(index, codes=index.codes.with_probes(config.probes))
            except ValueError as error:
                raise InputError(f"--index {config.index} with --probes {config.probes}: {error}") from error
        exact = None if index.codes.is_exact else search_of(replace(index, codes=index.codes.exact()))
        yield search_of(index), exact
    elif config.shards > 1:
        from pipelines.actors.shards import sharded_search  # imports Ray

        with sharded_search(gallery, config.shards, address=config.ray_address, radius=config.radius, backend=config.backend) as search:
            yield search, None
    else:
        yield search_of(GalleryIndex.of_gallery(gallery)), None
