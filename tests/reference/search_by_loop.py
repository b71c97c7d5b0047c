"""Galleries made by hand, and a search that looks at every pair."""

from pathlib import Path

import numpy as np

from eet.gallery import Gallery, Manifest, open_gallery, part_table, write_manifest, write_part

BITS = 10


def hand_made(
    path: Path, codes: np.ndarray, labels: list[int | None], *, names=None, prefix="item", bad=(), digest="m", hashes=None
) -> Gallery:
    """A gallery of one part with these bits (N, BITS), and with hashes (N, BITS) where they are given."""
    rows = len(codes)
    manifest = Manifest(
        model_digest=digest, preprocessing_digest="p", num_bits=BITS, num_rows=rows, num_ok=rows - len(bad), num_parts=1,
        rows_per_part=rows, label_names=names, errors={"missing": len(bad)} if bad else {}, has_hash=hashes is not None,
    )  # fmt: skip
    ids = [f"{prefix}{row:03d}" for row in range(rows)]
    statuses = ["missing" if row in bad else "ok" for row in range(rows)]
    table = part_table(
        ids, ids, labels, np.packbits(codes, axis=1), statuses, [None if s == "ok" else s for s in statuses], schema=manifest.schema,
        hash=hashes,
    )  # fmt: skip
    write_part(str(path), 0, table)
    write_manifest(str(path), manifest)
    return open_gallery(str(path))


def loop(gallery: Gallery, queries: Gallery, k: int, query_hash: np.ndarray | None = None, *, radius: int = BITS) -> list[tuple]:
    """(query_id, rank, item_id, distance) by looking at every pair; of those within the radius the first k."""
    codes, ids = gallery.codes()
    query_codes, query_ids = queries.codes()
    signs = np.unpackbits(codes, axis=1, count=BITS).astype(int)
    answer = []
    for number, query_id in enumerate(query_ids.to_pylist()):
        query = np.unpackbits(query_codes[number], count=BITS).astype(int)
        found = []
        for row, item_id in enumerate(ids.to_pylist()):
            if gallery.path == queries.path and item_id == query_id:
                continue
            asymmetric = 0.0 if query_hash is None else float(np.float32(query_hash[number] @ (2 * signs[row] - 1)))
            distance = int((query != signs[row]).sum())
            if distance <= radius:
                found.append((distance, round(-asymmetric, 4), item_id))
        answer += [(query_id, rank, item, distance) for rank, (distance, _, item) in enumerate(sorted(found)[:k], start=1)]
    return answer


def answered(hits) -> list[tuple]:
    return list(zip(*(hits[name].to_pylist() for name in ("query_id", "rank", "item_id", "distance")), strict=True))
