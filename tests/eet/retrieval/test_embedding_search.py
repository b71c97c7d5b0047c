"""Search by embeddings against a sort of all cosines."""

from pathlib import Path

import numpy as np
import pytest

import eet
from eet.errors import InputError
from eet.gallery import Gallery, Manifest, open_gallery, part_table, write_manifest, write_part
from eet.retrieval import embedding_search, search

DIM = 8


def made(path: Path, vectors: np.ndarray | None, *, rows: int, form: str = "float16") -> Gallery:
    """Items in parts of 7; every fifth could not be read."""
    bad = np.arange(rows) % 5 == 4
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=8, num_rows=rows, num_ok=int((~bad).sum()), num_parts=-(-rows // 7),
        rows_per_part=7, embedding_dim=None if vectors is None else DIM, embedding_dtype=form,
    )  # fmt: skip
    codes = np.random.default_rng(1).integers(0, 256, (rows, 1), np.uint8)
    for part in range(manifest.num_parts):
        chosen = np.arange(rows)[7 * part : 7 * part + 7]
        names = [f"{path.name}{row:03d}" for row in chosen]
        status = ["missing" if bad[row] else "ok" for row in chosen]
        stored = {} if vectors is None else {"embedding": vectors[chosen], "embedding_form": form}
        table = part_table(names, names, chosen % 3, codes[chosen], status, [None] * len(names), schema=manifest.schema, **stored)
        write_part(str(path), part, table)
    write_manifest(str(path), manifest)
    return open_gallery(str(path))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("k", [3, 29, 100])  # the 29th hit of a query is one of a tie, of which the search cuts the rest
def test_hits_are_those_of_a_sort_of_all_cosines(own, k, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_search, "QUERIES_AT_ONCE", 4)
    monkeypatch.setattr(search, "QUERIES_A_READ", 8)  # the last query is alone, and its products are rounded in another way
    random = np.random.default_rng(0)
    vectors = random.normal(size=(40, DIM)).astype(np.float16).astype(np.float32)
    vectors[[3, 11, 30]] = vectors[20]  # ties go by item_id
    gallery = made(tmp_path / "item", vectors, rows=40)
    asked = vectors if own else random.normal(size=(11, DIM)).astype(np.float16).astype(np.float32)
    queries = gallery if own else made(tmp_path / "query", asked, rows=11)
    hits = eet.search(gallery, queries, k=k, by="embedding").table
    units, query_units = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (vectors, asked))
    codes = dict(zip(*(gallery.table([name])[name].to_pylist() for name in ("item_id", "code")), strict=True))
    query_codes = dict(zip(*(queries.table([name])[name].to_pylist() for name in ("item_id", "code")), strict=True))
    expected = []
    for query in (row for row in range(len(asked)) if row % 5 != 4):
        cosine = np.round(units @ query_units[query], 5)
        rows = [row for row in sorted(range(40), key=lambda row: (-cosine[row], row)) if row % 5 != 4 and not (own and row == query)]
        expected += [(f"{'item' if own else 'query'}{query:03d}", rank, f"item{row:03d}", row % 3) for rank, row in enumerate(rows[:k], 1)]
    columns = zip(*(hits[name].to_pylist() for name in ("query_id", "rank", "item_id", "item_label")), strict=True)
    assert list(columns) == expected
    for row in hits.to_pylist()[:20]:
        assert row["distance"] == bin(codes[row["item_id"]][0] ^ query_codes[row["query_id"]][0]).count("1")
        item, query = int(row["item_id"][-3:]), int(row["query_id"][-3:])
        assert row["score"] == pytest.approx(float(units[item] @ query_units[query]), abs=1e-5)


def test_quantised_embeddings_are_searched_in_their_own_coordinates(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(30, DIM)).astype(np.float32)
    gallery, queries = made(tmp_path / "item", vectors, rows=30, form="int8"), made(tmp_path / "query", vectors, rows=30)
    first = eet.search(gallery, queries, k=1, by="embedding").table
    assert [item[-3:] for item in first["item_id"].to_pylist()] == [query[-3:] for query in first["query_id"].to_pylist()]
    assert min(first["score"].to_pylist()) > 0.99


def test_without_embeddings_the_search_is_refused(tmp_path):
    gallery = made(tmp_path / "item", None, rows=8)
    with pytest.raises(InputError, match="has no embeddings to search by: encode it with embedding"):
        eet.search(gallery, gallery, k=1, by="embedding")
    with pytest.raises(InputError, match="'embedding' without rescore"):
        eet.search(gallery, gallery, k=5, by="embedding", rescore=5)
