"""Re-ranking against a loop over every pair with POT."""

import dataclasses
from pathlib import Path

import numpy as np
import ot
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from eet.gallery import (
    RERANKED_SCHEMA,
    Manifest,
    fixed_binary_to_numpy,
    open_gallery,
    part_name,
    part_table,
    read_hits,
    write_hits,
    write_manifest,
    write_part,
)
from eet.hashing.quantisation import restored, stored
from eet.retrieval import pairs
from eet.retrieval import rerank as reranking
from eet.retrieval.search import search_gallery
from eet.vit import load_bundle
from pipelines import encode, report, rerank, search
from pipelines.job.options import DataOptions

BITS, TOKENS, DIM = 10, 6, 8
ITEMS, QUERIES, TOP = 40, 5, 12


def hand_made(
    path: Path,
    rows: int,
    prefix: str,
    seed: int,
    *,
    ids: list[str] | None = None,
    embedding: bool = True,
    form: str = "float16",
    restore: bool = False,
) -> str:
    """A gallery of two parts whose ranges of ids overlap, as after an append.

    form: of tokens and embedding. restore: store in float16 the vectors that those of the form stand for.
    """
    random = np.random.default_rng(seed)

    def vectors(shape: tuple[int, ...], mean: float = 0.0) -> np.ndarray:
        drawn = random.normal(size=shape) + mean
        return restored(stored(drawn, form), form, DIM, rotated=False) if restore else drawn

    form_on_disk = "float16" if restore else form
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=BITS, num_rows=rows, num_ok=rows, num_parts=2, rows_per_part=rows,
        token_shape=(TOKENS, DIM), token_dtype=form_on_disk, embedding_dim=DIM if embedding else None,
        embedding_dtype=form_on_disk,
    )  # fmt: skip
    ids = ids or [f"{prefix}{row:03d}" for row in range(rows)]
    for part in range(2):
        mine = ids[part::2]
        count = len(mine)
        table = part_table(
            mine, mine, random.integers(0, 3, count), np.packbits(random.integers(0, 2, (count, BITS), np.uint8), axis=1), ["ok"] * count,
            [None] * count, schema=manifest.schema, tokens=vectors((count, TOKENS, DIM), 0.5),
            token_index=np.tile(np.arange(TOKENS), (count, 1)), token_mass=random.random((count, TOKENS)),
            token_form=form_on_disk, embedding_form=form_on_disk,
            **({"embedding": vectors((count, DIM))} if embedding else {}),
        )  # fmt: skip
        write_part(str(path), part, table)
    write_manifest(str(path), manifest)
    return str(path)


@pytest.fixture(scope="module")
def galleries(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("galleries")
    return hand_made(folder / "items", ITEMS, "item", 0), hand_made(folder / "queries", QUERIES, "query", 1)


@pytest.fixture
def config(galleries, tmp_path) -> rerank.RerankConfig:
    items, queries = galleries
    hits = search_gallery(open_gallery(items), open_gallery(queries), k=20)
    write_hits(str(tmp_path / "hits.parquet"), hits)
    return rerank.RerankConfig(
        hits=str(tmp_path / "hits.parquet"), gallery=items, queries=queries, out=str(tmp_path / "new.parquet"), top=TOP, engine="local"
    )


def rows_by_id(gallery: str) -> dict[str, dict[str, np.ndarray]]:
    rows = open_gallery(gallery).table().to_pylist()
    read = {"tokens": ("<f2", (TOKENS, DIM)), "token_mass": ("<f2", (TOKENS,)), "embedding": ("<f2", (DIM,)), "code": (np.uint8, (2,))}
    return {
        row["item_id"]: {name: np.frombuffer(row[name], kind).reshape(shape).astype(float) for name, (kind, shape) in read.items()}
        for row in rows
    }


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def struct_slowly(query: dict, item: dict) -> float:
    q, g = (side["tokens"] / np.linalg.norm(side["tokens"], axis=1, keepdims=True) for side in (query, item))
    u, v = (side["token_mass"] / side["token_mass"].sum() for side in (query, item))
    plan = ot.sinkhorn(u, v, 1 - q @ g.T, 0.05, numItermax=20_000, stopThr=1e-12)
    return float((plan * (q @ g.T)).sum())


def global_slowly(query: dict, item: dict, measure: str) -> float:
    if measure == "embedding":
        return cosine(query["embedding"], item["embedding"])
    bits = [np.unpackbits(side["code"].astype(np.uint8), count=BITS).astype(int) for side in (query, item)]
    return 1 - 2 * float((bits[0] != bits[1]).sum()) / BITS


def test_codes_and_embeddings_order_hits_without_tokens(config, galleries):
    weight = 0.6
    new = rerank.run(dataclasses.replace(config, weight=0, embedding_weight=weight))
    items, queries = map(rows_by_id, galleries)
    before = read_hits(config.hits).to_pylist()
    for query_id, query in queries.items():
        old = [row["item_id"] for row in before if row["query_id"] == query_id]
        head = {
            item: global_slowly(query, items[item], "hamming") + weight * cosine(query["embedding"], items[item]["embedding"])
            for item in old[:TOP]
        }
        found = [row for row in new.to_pylist() if row["query_id"] == query_id]
        assert [row["item_id"] for row in found] == sorted(head, key=lambda item: -head[item]) + old[TOP:]
        assert all(row["score"] == pytest.approx(head[row["item_id"]], abs=1e-5) for row in found[:TOP])
        assert all(row["score_struct"] is None for row in found)


def test_a_query_that_lacks_tokens_is_refused_by_name(config, tmp_path):
    """Its code alone is there: the tokens of the others must not move up into its place."""
    path = hand_made(tmp_path / "asked", QUERIES, "query", 1)
    file = tmp_path / "asked" / part_name(0)
    part = pq.read_table(file)
    for name in ("tokens", "token_mass", "token_index"):
        values = [None, *part[name].to_pylist()[1:]]
        part = part.set_column(part.column_names.index(name), part.schema.field(name), pa.array(values, part[name].type))
    pq.write_table(part, file)
    with pytest.raises(ValueError, match="1 queries, such as 'query000', have no tokens in"):
        rerank.run(dataclasses.replace(config, queries=path))


def test_embeddings_and_tokens_are_added(config):
    """The score has three parts: codes, embeddings and tokens."""
    alone = rerank.run(dataclasses.replace(config, weight=0.7)).to_pylist()
    both = rerank.run(dataclasses.replace(config, weight=0.7, embedding_weight=0.6)).to_pylist()
    embeddings = rerank.run(dataclasses.replace(config, weight=0, embedding_weight=0.6)).to_pylist()
    parts = [
        {(row["query_id"], row["item_id"]): row for row in rows if row["score_global"] is not None} for rows in (alone, both, embeddings)
    ]
    assert len(parts[0]) == QUERIES * TOP
    for pair, row in parts[1].items():
        assert row["score_struct"] == parts[0][pair]["score_struct"]
        assert row["score_global"] == parts[2][pair]["score_global"]
        assert row["score"] == pytest.approx(row["score_global"] + 0.7 * row["score_struct"], abs=1e-6)


@pytest.mark.parametrize("form", ["int8", "int2"])
@pytest.mark.parametrize("also_queries", [False, True])
@pytest.mark.parametrize("marginal", ["importance", "cross_correlation"])
def test_a_gallery_in_few_bits_is_scored_as_one_of_the_vectors_that_they_stand_for(config, tmp_path, form, also_queries, marginal):
    config = dataclasses.replace(config, marginal=marginal, embedding_weight=1.0)
    scores = []
    for restore in (False, True):
        gallery = hand_made(tmp_path / f"items{restore}", ITEMS, "item", 0, form=form, restore=restore)
        asked = hand_made(tmp_path / f"asked{restore}", QUERIES, "query", 1, form=form, restore=restore) if also_queries else config.queries
        new = rerank.run(dataclasses.replace(config, gallery=gallery, queries=asked)).to_pylist()
        scores.append({(row["query_id"], row["item_id"]): [row["score_global"], row["score_struct"]] for row in new if row["rank"] <= TOP})
    assert scores[0].keys() == scores[1].keys()
    found, wanted = (np.array([each[pair] for pair in sorted(scores[0])]) for each in scores)
    assert wanted.std(axis=0).min() > 0.05
    np.testing.assert_allclose(found, wanted, atol=5e-3)


@pytest.mark.parametrize("measure", ["hamming", "embedding"])
def test_the_order_is_that_of_a_loop_over_every_pair(config, galleries, measure):
    weight = 0.7
    before = read_hits(config.hits)
    new = rerank.run(dataclasses.replace(config, weight=weight, global_similarity=measure))
    items, queries = map(rows_by_id, galleries)
    for query_id, query in queries.items():
        old = [row for row in before.to_pylist() if row["query_id"] == query_id]
        head = {row["item_id"]: global_slowly(query, items[row["item_id"]], measure) for row in old[:TOP]}
        struct = {item_id: struct_slowly(query, items[item_id]) for item_id in head}
        wanted = sorted(head, key=lambda item_id: -(head[item_id] + weight * struct[item_id]))
        found = [row for row in new.to_pylist() if row["query_id"] == query_id]
        assert [row["rank"] for row in found] == list(range(1, 21))
        assert [row["item_id"] for row in found] == wanted + [row["item_id"] for row in old[TOP:]]
        for row in found[:TOP]:
            assert row["score_global"] == pytest.approx(head[row["item_id"]], abs=1e-5)
            assert row["score_struct"] == pytest.approx(struct[row["item_id"]], abs=1e-4)
            assert row["score"] == pytest.approx(row["score_global"] + weight * row["score_struct"], abs=1e-6)
        assert all(row["score_global"] is None and row["score_struct"] is None for row in found[TOP:])
        scores = [row["score"] for row in found]
        assert scores == sorted(scores, reverse=True)
        of_item = {row["item_id"]: (row["distance"], row["item_label"], row["query_label"]) for row in old}
        assert all((row["distance"], row["item_label"], row["query_label"]) == of_item[row["item_id"]] for row in found)
    assert read_hits(config.out).equals(new) and new.schema.equals(RERANKED_SCHEMA)


def test_ray_gives_the_same_hits_to_the_last_bit(ray_session, config, monkeypatch, capfd):
    here = rerank.run(config)
    monkeypatch.setattr(reranking, "QUERY_BYTES_AT_ONCE", 2 * 2 * TOKENS * DIM)  # two queries travel at a time
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 3)
    assert rerank.run(config).equals(here)
    monkeypatch.undo()
    assert rerank.run(dataclasses.replace(config, engine="ray")).equals(here)
    assert "max_restarts" not in capfd.readouterr().err  # Ray's line about the actors of Ray Data


def test_hits_without_tokens_keep_their_place(config, galleries, tmp_path, capsys):
    items = tmp_path / "items"
    hand_made(items, ITEMS, "item", 0)
    path = items / part_name(1)
    part = pq.read_table(path)
    without = [f"item{number:03d}" for number in (3, 11, 21)]
    bare = pa.array([item_id.as_py() in without for item_id in part["item_id"]])
    for name in ("tokens", "token_mass", "token_index"):
        values = [None if left else value for left, value in zip(bare.to_pylist(), part[name].to_pylist(), strict=True)]
        part = part.set_column(part.column_names.index(name), part.schema.field(name), pa.array(values, part[name].type))
    pq.write_table(part, path)
    config = dataclasses.replace(config, gallery=str(items))
    before = read_hits(config.hits).to_pylist()
    new = rerank.run(config).to_pylist()
    kept = [(row["query_id"], row["rank"], row["item_id"]) for row in before if row["item_id"] in without and row["rank"] <= TOP]
    assert kept and set(kept) <= {(row["query_id"], row["rank"], row["item_id"]) for row in new}
    assert f"{len(kept)} hits without tokens kept their rank" in capsys.readouterr().out
    assert sorted((row["query_id"], row["item_id"]) for row in before) == sorted((row["query_id"], row["item_id"]) for row in new)
    for one, other in zip(new, new[1:], strict=False):
        assert one["query_id"] != other["query_id"] or one["score"] >= other["score"]


def test_hits_of_another_gallery_are_refused(config, tmp_path):
    other = hand_made(tmp_path / "other", ITEMS, "other", 0)
    with pytest.raises(ValueError, match="items of the hits, such as 'item.*are not in"):
        rerank.run(dataclasses.replace(config, gallery=other))


def test_galleries_that_lack_what_is_needed_are_refused(config, tmp_path):
    bare = hand_made(tmp_path / "bare", ITEMS, "item", 0, embedding=False)
    with pytest.raises(ValueError, match="bare has no embeddings.*encode it with embedding"):
        rerank.run(dataclasses.replace(config, gallery=bare, global_similarity="embedding"))
    rerank.run(dataclasses.replace(config, gallery=bare, marginal="softmax"))  # centres of tokens, where one side has no embedding
    manifest = dataclasses.replace(open_gallery(bare).manifest, token_shape=None, token_dtype=None)
    write_manifest(bare, manifest)
    with pytest.raises(ValueError, match="no tokens to match: encode it with tokens"):
        rerank.run(dataclasses.replace(config, gallery=bare))


def test_impossible_options_are_reported_at_once():
    config = rerank.RerankConfig(
        hits="h", gallery="g", out="folder", top=0, marginal="mass", solver="simplex", transported=0, epsilon=0, weight=-1,
    )  # fmt: skip
    message = " | ".join(config.problems())
    for part in (
        "--top 0",
        "--marginal mass",
        "--solver simplex",
        "--transported 0",
        "--epsilon 0",
        "--weight -1",
        "--out folder",
    ):
        assert part in message


def test_a_base_models_gallery_is_searched_re_ranked_and_shown(tiny_base, tiny_birds, tmp_path):
    """With every item a hit and no structural term the order is that of the cosine of the embeddings."""
    gallery, hits, new = (str(tmp_path / name) for name in ("gallery", "hits.parquet", "new.parquet"))
    birds = DataOptions(name="synthetic", root=str(tiny_birds))
    config = encode.EncodeConfig(model=str(tiny_base), out=gallery, data=birds, split="test", tokens=True, embedding=True, engine="local")
    count = encode.run(config).manifest.num_ok
    search.run(search.SearchConfig(gallery=gallery, queries=gallery, k=count - 1, out=hits))
    config = rerank.RerankConfig(hits=hits, gallery=gallery, out=new, top=count, weight=0, global_similarity="embedding", engine="local")
    found = rerank.run(config).to_pylist()
    table = open_gallery(gallery).table()
    embedding = fixed_binary_to_numpy(table["embedding"], "<f2", (12,)).astype(float)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    ids = table["item_id"].to_pylist()
    for row, query_id in enumerate(ids):
        mine = [hit for hit in found if hit["query_id"] == query_id]
        cosines = embedding @ embedding[row]
        np.testing.assert_allclose([hit["score"] for hit in mine], np.sort(np.delete(cosines, row))[::-1], atol=1e-6)
        assert {hit["item_id"] for hit in mine} == set(ids) - {query_id}
    page = report.run(report.ReportConfig(hits=new, out=str(tmp_path / "report"), model=str(tiny_base), num_queries=2, top=2))
    page = Path(page).read_text()
    assert "Matched regions" in page and "prunes nothing" in page


def test_with_hashes_the_global_term_is_the_asymmetric_similarity(tiny_model, tiny_birds, tmp_path):
    gallery, hits, new = (str(tmp_path / name) for name in ("gallery", "hits.parquet", "new.parquet"))
    birds = DataOptions(name="synthetic", root=str(tiny_birds))
    given = {"model": str(tiny_model), "tokens": True, "embedding": True, "hash": True, "engine": "local"}
    encode.run(encode.EncodeConfig(out=gallery, data=birds, split="test", **given))
    search.run(search.SearchConfig(gallery=gallery, queries=gallery, k=5, out=hits))
    rows = {row["item_id"]: row for row in open_gallery(gallery).table().to_pylist()}
    student = load_bundle(tiny_model)
    for hit in rerank.run(rerank.RerankConfig(hits=hits, gallery=gallery, out=new, engine="local")).to_pylist():
        query = rows[hit["query_id"]]
        hash_b = np.frombuffer(query["hash"], "<f2").astype(float)
        embedding = torch.tensor(np.frombuffer(query["embedding"], "<f2").astype(np.float32))
        with torch.inference_mode():
            np.testing.assert_allclose(student.heads(embedding[None])[1][0].numpy(), hash_b, atol=0.02)
        bits = np.unpackbits(np.frombuffer(rows[hit["item_id"]]["code"], np.uint8)).astype(float)
        assert hit["score_global"] == pytest.approx((hash_b * (2 * bits - 1)).sum() / np.abs(hash_b).sum(), abs=1e-4)


def test_asymmetric_needs_hashes_of_the_queries(config):
    with pytest.raises(ValueError, match="no real-valued hashes.*encode it with hash"):
        rerank.run(dataclasses.replace(config, global_similarity="asymmetric"))
