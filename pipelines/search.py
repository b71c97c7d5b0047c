"""`eet search`: for every query, the nearest items of a gallery."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from eet.gallery import Gallery, open_gallery, write_hits
from eet.search import HammingIndex
from eet.vit import read_bundle_record
from pipelines.encode import EncodeConfig
from pipelines.encode import run as encode
from pipelines.galleries import check_made_by, check_same_model, is_gallery, labels_in, queries_gallery, same_folder
from pipelines.options import JobOptions
from pipelines.output import is_table, replace_folder, write_config


@dataclass(kw_only=True)
class SearchConfig(JobOptions):
    """Ranks a gallery's items by Hamming distance to each query.

    Attributes:
        gallery: Gallery that `eet encode` wrote.
        queries: A folder of images, one image, or another gallery of the same model; the gallery itself is allowed, and then no item is
            its own hit.
        model: Bundle that encodes query images; not needed where the queries are a gallery.
        k: Hits for each query.
        out: Parquet file of hits. Query images are encoded into a small gallery beside it, NAME.queries.
    """

    gallery: str
    queries: str
    out: str
    model: str | None = None
    k: int = 100

    def problems(self) -> list[str]:
        found = super().problems()
        if self.k < 1:
            found.append(f"--k {self.k}: ask for 1 hit or more")
        if not is_table(self.out):
            found.append(f"--out {self.out}: hits are one Parquet file, so its name ends in .parquet")
        return found


def run(config: SearchConfig) -> pa.Table:
    """Writes the hits and returns them."""
    gallery = open_gallery(config.gallery)
    query_hash: np.ndarray | None = None
    if is_gallery(config.queries):
        queries = open_gallery(config.queries)
    else:
        if config.model is None:
            raise ValueError(f"--queries {config.queries} is no gallery, so --model is needed to encode its images")
        if config.dry_run:
            _print_plan(gallery, config)
            return pa.table({})
        queries, query_hash = _encode_queries(config, gallery)
    check_same_model(gallery, queries)
    if config.dry_run:
        _print_plan(gallery, config)
        return pa.table({})
    hits = search_gallery(gallery, queries, k=config.k, query_hash=query_hash)
    write_config(config.out, config)
    write_hits(config.out, hits)
    print(f"{config.out}: {len(hits)} hits for {queries.manifest.num_ok} queries")
    return hits


def _print_plan(gallery: Gallery, config: SearchConfig) -> None:
    print(
        f"dry run: {config.queries} against {gallery.manifest.num_ok} codes of "
        f"{gallery.manifest.num_bits} bits, {config.k} hits each; nothing was started"
    )


def _encode_queries(config: SearchConfig, gallery: Gallery) -> tuple[Gallery, np.ndarray]:
    """The query images as a gallery beside the hits, and their real-valued hashes, which order the hits inside a distance.

    Encoded anew each time, since a picture may have changed under its name; those of an earlier search into the same hits stay until the
    new ones are whole.
    """
    assert config.model is not None
    check_made_by(gallery, read_bundle_record(config.model), f"--model {config.model}")
    out = queries_gallery(config.out)
    if same_folder(out, config.gallery):
        raise ValueError(f"--out {config.out} would put its queries into {out}, which is --gallery itself: choose another name")
    hashes: list[np.ndarray] = []
    with replace_folder(out) as fresh:
        wanted = EncodeConfig(model=config.model, images=config.queries, out=fresh, tokens=True, engine="local", max_error_ratio=1.0)
        encode(wanted, hashes=hashes)
    write_config(out, replace(wanted, out=out))  # it was written for the folder that took its place
    return open_gallery(out), np.concatenate(hashes)


def search_gallery(gallery: Gallery, queries: Gallery, *, k: int, query_hash: np.ndarray | None = None) -> pa.Table:
    """Hits (in the columns of HITS_SCHEMA) of every query that has a code; ordered by query, then rank.

    Inside a distance: by the asymmetric score of query_hash (Q, bits) where it is given, then by item_id. score is minus the distance,
    plus, with query_hash, the asymmetric score scaled into -0.5..0.5: so it falls with the rank. Where queries and gallery are the same
    folder, no item is its own hit.
    """
    codes, item_ids = gallery.codes()
    query_codes, query_ids = queries.codes()
    labels, query_labels = gallery.labels(), labels_in(gallery, queries)
    same = same_folder(gallery.path, queries.path)
    index = HammingIndex.build(codes, num_bits=gallery.manifest.num_bits)
    distances, rows = index.search(query_codes, k + 1 if same else k, query_hash=query_hash)
    query_of = np.repeat(np.arange(len(rows)), rows.shape[1])
    rank = np.tile(np.arange(rows.shape[1]), len(rows))
    flat_rows, flat_distances = rows.ravel(), distances.ravel()
    if same:
        keep = flat_rows != query_of
        before = np.concatenate([[0], np.cumsum(~keep)])[:-1].reshape(rows.shape)
        rank = rank - (before - before[:, :1]).ravel()
        keep &= rank < k
        query_of, rank, flat_rows, flat_distances = query_of[keep], rank[keep], flat_rows[keep], flat_distances[keep]
    scores = -flat_distances.astype(np.float32)
    if query_hash is not None:
        signs = np.unpackbits(codes[flat_rows], axis=1, count=gallery.manifest.num_bits).astype(np.float32) * 2 - 1
        asymmetric = np.einsum("nb,nb->n", signs, query_hash[query_of])
        scores += 0.499 * asymmetric / np.maximum(np.abs(query_hash).sum(axis=1), 1e-12)[query_of]
    return pa.table(
        {
            "query_id": query_ids.take(pa.array(query_of)),
            "rank": pa.array(rank + 1, pa.int32()),
            "item_id": item_ids.take(pa.array(flat_rows)),
            "distance": pa.array(flat_distances, pa.int32()),
            "score": pa.array(scores, pa.float32()),
            "query_label": _label_column(query_labels[query_of]),
            "item_label": _label_column(labels[flat_rows]),
        }
    )


def _label_column(labels: np.ndarray) -> pa.Array:
    return pa.array(labels, pa.int32(), mask=labels < 0)
