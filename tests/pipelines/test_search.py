"""`eet search`: galleries, images and indexes as queries and sources of hits."""

import dataclasses
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from search_by_loop import answered, hand_made, loop
from tied_gallery import tied_bits, tied_gallery

import eet
from eet.datasets import synthetic
from eet.gallery import (
    Gallery,
    PrecisionWarning,
    check_encoded_for,
    open_gallery,
    read_hits,
    read_recall,
    write_hits,
    write_manifest,
    write_part,
)
from eet.images import read_image
from eet.retrieval.gallery_index import GalleryIndex
from eet.retrieval.search import search_gallery
from eet.vit import load_bundle, save_bundle
from pipelines import encode, evaluate, index, report, rerank, search
from pipelines.job.options import DataOptions
from pipelines.job.output import options_of_hits


@pytest.fixture
def gallery(tmp_path) -> Gallery:
    return tied_gallery(tmp_path / "gallery")


def test_queries_of_another_model_are_refused(gallery, tmp_path):
    other = hand_made(tmp_path / "queries", tied_bits()[:2], [0, 0], digest="other")
    with pytest.raises(ValueError, match="encoded with model m, .* has other"):
        search.run(search.SearchConfig(gallery=gallery.path, queries=other.path, out=str(tmp_path / "hits.parquet")))
    assert not (tmp_path / "hits.parquet").exists()


def test_query_images_need_a_model(gallery, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="--model is needed"):
        search.run(search.SearchConfig(gallery=gallery.path, queries=str(tmp_path / "images"), out=str(tmp_path / "hits.parquet")))


@pytest.fixture(scope="module")
def birds_gallery(tiny_model, tiny_birds, tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("birds") / "gallery")
    data = DataOptions(name="synthetic", root=str(tiny_birds))
    encode.run(encode.EncodeConfig(model=str(tiny_model), data=data, split="train", out=out, engine="local"))
    return out


@pytest.fixture
def query_images(tiny_birds, tmp_path) -> Path:
    table = synthetic.load(str(tiny_birds)).select("test")
    folder = tmp_path / "images"
    folder.mkdir()
    for row in (0, 5, 10):
        shutil.copy(table.location(row), folder / f"{row:02d}.png")
    (folder / "broken.png").write_bytes(b"")
    return folder


def test_images_are_encoded_next_to_the_hits_and_ordered_by_their_hash(tiny_model, birds_gallery, query_images, tmp_path):
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(query_images), model=str(tiny_model), k=12, out=str(tmp_path / "hits.parquet")
    )
    hits = search.run(config)
    assert read_hits(config.out).equals(hits.cast(read_hits(config.out).schema))
    assert (tmp_path / "hits.config.yaml").is_file()
    assert list(dict.fromkeys(hits["query_id"].to_pylist())) == ["00.png", "05.png", "10.png"]  # the broken one has no code
    student = load_bundle(tiny_model)
    codes, ids = open_gallery(birds_gallery).codes()
    signs = np.unpackbits(codes, axis=1).astype(int) * 2 - 1
    for name in ("00.png", "05.png", "10.png"):
        with torch.inference_mode():
            hash_b = student(student.preprocess(read_image(str(query_images / name))).unsqueeze(0), tokens=False).hash[0].numpy()
        distance = ((hash_b > 0) * 2 - 1 != signs).sum(axis=1)
        asymmetric = signs @ hash_b.astype(np.float64)
        rows = [row for row in hits.to_pylist() if row["query_id"] == name]
        assert [row["distance"] for row in rows] == sorted(distance)[:12]
        place = {item: row for row, item in enumerate(ids.to_pylist())}
        for before, after in zip(rows, rows[1:], strict=False):
            if before["distance"] == after["distance"]:
                assert asymmetric[place[before["item_id"]]] >= asymmetric[place[after["item_id"]]] - 1e-3


def test_query_images_are_encoded_in_the_precision_of_the_gallery(tiny_model, query_images, tmp_path):
    galleries = {}
    for precision in ("auto", "fp32", "bf16"):
        galleries[precision] = eet.encode(tiny_model, str(query_images), out=tmp_path / precision, precision=precision)
        config = search.SearchConfig(
            gallery=str(tmp_path / precision),
            queries=str(query_images),
            model=str(tiny_model),
            k=1,
            out=str(tmp_path / f"{precision}.parquet"),
        )
        search.run(config)
        queries = open_gallery(str(tmp_path / f"{precision}.queries"))
        assert queries.manifest.precision == precision
        np.testing.assert_array_equal(queries.hashes(), galleries[precision].hashes())
    assert not np.array_equal(galleries["bf16"].hashes(), galleries["fp32"].hashes())


@pytest.mark.parametrize(("gallery_in", "queries_in", "warns"), [("fp32", "bf16", True), ("bf16", "bf16", False), ("auto", "bf16", False)])
def test_galleries_of_two_precisions_are_searched_with_a_warning(tmp_path, gallery_in, queries_in, warns):
    sides = []
    for name, precision in (("gallery", gallery_in), ("queries", queries_in)):
        side = tied_gallery(tmp_path / name)
        write_manifest(side.path, dataclasses.replace(side.manifest, precision=precision))
        sides.append(open_gallery(side.path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PrecisionWarning)
        assert len(eet.search(*sides, k=2))
    assert len([one for one in caught if one.category is PrecisionWarning]) == warns
    assert not warns or f"encoded in {gallery_in}" in str(caught[0].message)


def test_the_hits_are_printed_as_a_table_as_locations_for_a_pipe_or_not(tiny_model, birds_gallery, query_images, tmp_path, capsys):
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(query_images / "05.png"), model=str(tiny_model), k=3, out=str(tmp_path / "hits.parquet")
    )
    hits = search.run(config)
    located = open_gallery(birds_gallery).rows(hits["item_id"])["uri"].to_pylist()
    printed = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in printed if line.lstrip()[:1].isdigit()]
    assert [row[-1] for row in rows] == located and [int(row[1]) for row in rows] == hits["distance"].to_pylist()
    assert all(len(row) == 4 for row in rows) and printed[-1].endswith("3 hits for 1 queries")
    search.run(dataclasses.replace(config, format="paths"))
    printed = capsys.readouterr()
    assert printed.out.splitlines() == located and "3 hits for 1 queries" in printed.err
    search.run(dataclasses.replace(config, format="none"))
    assert not any(uri in capsys.readouterr().out for uri in located)


def test_a_changed_image_under_the_same_name_is_encoded_again(tiny_model, birds_gallery, query_images, tmp_path):
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(query_images), model=str(tiny_model), k=3, out=str(tmp_path / "hits.parquet")
    )
    search.run(config)
    others = tmp_path / "others"
    others.mkdir()
    shutil.copy(query_images / "05.png", others / "00.png")  # the name of one query, the image of another
    hits = search.run(dataclasses.replace(config, queries=str(others)))
    expected = search.run(dataclasses.replace(config, queries=str(query_images / "05.png"), out=str(tmp_path / "alone.parquet")))
    assert set(hits["query_id"].to_pylist()) == {"00.png"}
    assert hits.drop_columns("query_id").equals(expected.drop_columns("query_id"))


def test_a_search_that_fails_leaves_the_queries_of_the_one_before(tiny_model, birds_gallery, query_images, tmp_path):
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(query_images), model=str(tiny_model), k=3, out=str(tmp_path / "hits.parquet")
    )
    search.run(config)
    before = open_gallery(str(tmp_path / "hits.queries")).codes()[1].to_pylist()
    with pytest.raises(ValueError, match="holds no image"):
        search.run(dataclasses.replace(config, queries=str(tiny_model)))
    assert open_gallery(str(tmp_path / "hits.queries")).codes()[1].to_pylist() == before
    assert {path.name for path in tmp_path.iterdir()} == {"images", "hits.parquet", "hits.config.yaml", "hits.queries"}


def test_queries_never_take_the_place_of_the_gallery(tiny_model, birds_gallery, query_images, tmp_path):
    gallery = tmp_path / "hits.queries"
    shutil.copytree(birds_gallery, gallery)
    config = search.SearchConfig(gallery=str(gallery), queries=str(query_images), model=str(tiny_model), out=str(tmp_path / "hits.parquet"))
    with pytest.raises(ValueError, match="is the --gallery"):
        search.run(config)
    assert len(open_gallery(str(gallery)).codes()[0]) == len(open_gallery(birds_gallery).codes()[0])


def test_images_for_a_gallery_of_another_model_are_refused(tiny_model, birds_gallery, query_images, tmp_path):
    other = load_bundle(tiny_model)
    other.head_hash.bias.data += 1
    save_bundle(other, tmp_path / "other")
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(query_images), model=str(tmp_path / "other"), out=str(tmp_path / "hits.parquet")
    )
    with pytest.raises(ValueError, match="encode both with one model"):
        search.run(config)


def test_a_dry_run_writes_nothing(tiny_model, birds_gallery, query_images, tmp_path, capsys):
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(query_images), model=str(tiny_model), out=str(tmp_path / "hits.parquet"), dry_run=True
    )
    search.run(config)
    search.run(dataclasses.replace(config, queries=birds_gallery))
    assert capsys.readouterr().out.count("nothing was started") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"images"}


def test_an_index_older_than_its_gallery_is_refused_and_extended(parted, asked, tmp_path, capsys):
    whole, copy, out = Path(parted.path), tmp_path / "gallery", tmp_path / "index"
    shutil.copytree(whole, copy)
    unfinished = dataclasses.replace(parted.manifest, num_parts=5, num_rows=35, num_ok=35)
    write_manifest(str(copy), unfinished)
    make = index.IndexConfig(gallery=str(copy), out=str(out))
    index.run(make)
    assert GalleryIndex.load(str(out)).codes.num_items == 35
    index.run(make)
    assert "nothing to do" in capsys.readouterr().out
    write_manifest(str(copy), parted.manifest)
    ask = search.SearchConfig(gallery=str(copy), queries=asked[0].path, k=4, index=str(out), out=str(tmp_path / "hits.parquet"))
    with pytest.raises(ValueError, match="lacks 4 of the gallery's 9 parts: extend it with `eet index"):
        search.run(ask)
    index.run(make)
    assert "(4 of 9 parts" in capsys.readouterr().out
    assert answered(search.run(ask)) == answered(search_gallery(parted, asked[0], k=4))

    write_part(str(copy), 2, open_gallery(str(copy)).table().slice(14, 7))  # the same rows, written again
    with pytest.raises(ValueError, match="index of another gallery"):
        search.run(ask)
    with pytest.raises(ValueError, match="is no index"):
        search.run(dataclasses.replace(ask, index=str(copy)))


@pytest.fixture
def ivf(parted, asked, tmp_path) -> search.SearchConfig:
    """A search in 6 lists of the 60 items."""
    index.run(index.IndexConfig(gallery=parted.path, out=str(tmp_path / "ivf"), kind="ivf", lists=6))
    return search.SearchConfig(
        gallery=parted.path, queries=asked[0].path, k=20, index=str(tmp_path / "ivf"), probes=1, out=str(tmp_path / "hits.parquet")
    )


def test_an_approximate_search_tells_its_recall_and_answers_that_are_short(ivf, parted, asked, capsys):
    hits = search.run(ivf)
    exact = loop(parted, asked[0], 20)
    farthest = {query: distance for query, _, _, distance in exact}
    as_near = [distance <= farthest[query] for query, _, _, distance in answered(hits)]
    recall = read_recall(ivf.out)
    assert recall == {"recall": pytest.approx(sum(as_near) / len(exact)), "queries": 23, "k": 20} and 0 < recall["recall"] < 1
    full = [query for query, rank, _, _ in answered(hits) if rank == 20]
    printed = capsys.readouterr().out
    assert f"recall@20 {recall['recall']:.4f} against exact search, on 23 queries" in printed
    assert len(full) < 23 and f"{23 - len(full)} queries got fewer hits" in printed
    for query in set(farthest):  # what is found stands in the order of an exact search
        order = [item for asked_, _, item, _ in loop(parted, asked[0], 60) if asked_ == query]
        places = [order.index(item) for found, _, item, _ in answered(hits) if found == query]
        assert places == sorted(places)
    search.run(dataclasses.replace(ivf, recall_queries=4))
    assert read_recall(ivf.out)["queries"] == 4


@pytest.mark.parametrize("own", [False, True])
def test_all_lists_probed_is_an_exact_search_without_a_recall(ivf, parted, asked, own, capsys):
    queries = parted if own else asked[0]
    hits = search.run(dataclasses.replace(ivf, probes=6, queries=queries.path))
    assert hits.equals(search_gallery(parted, queries, k=20))
    assert read_recall(ivf.out) is None and "approximate" not in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["native", "faiss"])
def test_hits_within_a_radius_are_all_or_the_first_k_with_and_without_an_index(parted, asked, tmp_path, backend):
    config = search.SearchConfig(gallery=parted.path, queries=asked[0].path, radius=3, backend=backend, out=str(tmp_path / "hits.parquet"))
    index.run(index.IndexConfig(gallery=parted.path, out=str(tmp_path / "index")))
    for k in (None, 4):
        wanted = loop(parted, asked[0], k or 1000, radius=3)
        for place in (None, str(tmp_path / "index")):
            hits = search.run(dataclasses.replace(config, k=k, index=place))
            assert answered(hits) == wanted and read_hits(config.out).equals(hits.cast(read_hits(config.out).schema))
            assert read_recall(config.out) is None


def test_the_recall_of_an_approximate_search_within_a_radius(ivf, parted, asked, capsys):
    for k in (None, 5):
        hits = search.run(dataclasses.replace(ivf, radius=2, k=k))
        exact = loop(parted, asked[0], k or 1000, radius=2)
        if k is None:  # all that is found is near enough
            assert {(query, item, bits) for query, _, item, bits in answered(hits)} <= {
                (query, item, bits) for query, _, item, bits in exact
            }
        recall = read_recall(ivf.out)
        assert recall["radius"] == 2 and recall.get("k") == k and 0 < recall["recall"] < 1
        if k is None:
            assert recall["recall"] == pytest.approx(len(hits) / len(exact))
        assert f"recall{'' if k is None else '@5'} within 2 bits {recall['recall']:.4f} against" in capsys.readouterr().out
    search.run(dataclasses.replace(ivf, radius=0, k=None))
    with pytest.raises(ValueError, match="of kind ivf only some: use auto or native"):
        search.run(dataclasses.replace(ivf, backend="faiss"))


def test_faiss_that_is_missing_is_reported_before_any_image_is_encoded(tiny_model, birds_gallery, query_images, tmp_path, monkeypatch):
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(query_images), model=str(tiny_model), backend="faiss", out=str(tmp_path / "hits.parquet")
    )
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match="faiss cannot be imported"):
        search.run(config)
    assert {path.name for path in tmp_path.iterdir()} == {"images"}
    problems = " ".join(dataclasses.replace(config, radius=-1, k=0, rescore=3).problems())
    assert "--radius -1: use 0 bits" in problems and "--k 0: ask" in problems and "--rescore 3: use 0 (none) to --k 0" in problems
    assert dataclasses.replace(config, radius=4, rescore=300).problems() == []


def test_an_item_that_asks_for_itself_still_gets_k_others(ivf, parted, capsys):
    search.run(dataclasses.replace(ivf, queries=parted.path, probes=5, k=2))
    printed = capsys.readouterr().out
    assert "recall@2 " in printed and "fewer" not in printed and read_recall(ivf.out)["k"] == 2


def test_a_gallery_of_the_users_own_is_not_replaced_by_queries(tiny_model, birds_gallery, query_images, tmp_path):
    """H4: NAME.queries is a gallery that somebody made."""
    shutil.copytree(birds_gallery, tmp_path / "hits.queries")
    before = open_gallery(str(tmp_path / "hits.queries")).table()
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(query_images), model=str(tiny_model), out=str(tmp_path / "hits.parquet"), k=3
    )
    with pytest.raises(ValueError, match="hits.queries holds other files .and no encoded_for.json"):
        search.run(config)
    assert open_gallery(str(tmp_path / "hits.queries")).table().equals(before) and not (tmp_path / "hits.parquet").exists()


def test_hits_and_queries_of_two_searches_are_told_apart(tiny_model, birds_gallery, query_images, tmp_path, monkeypatch):
    """M12: a search that is stopped between its queries and its hits, and one that fails before, which changes nothing."""
    out = str(tmp_path / "hits.parquet")
    config = search.SearchConfig(gallery=birds_gallery, queries=str(query_images), model=str(tiny_model), out=out, k=3)
    search.run(config)
    queries = open_gallery(str(tmp_path / "hits.queries"))
    check_encoded_for(out, queries)
    (query_images / "05.png").unlink()
    with pytest.raises(ValueError, match="is no index"):
        search.run(dataclasses.replace(config, index=str(tmp_path / "none")))
    check_encoded_for(out, open_gallery(queries.path))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(search, "write_hits", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        search.run(config)
    for job in (
        lambda: rerank.run(rerank.RerankConfig(hits=out, gallery=birds_gallery, out=str(tmp_path / "better.parquet"), engine="local")),
        lambda: report.run(report.ReportConfig(hits=out, out=str(tmp_path / "page"))),
        lambda: evaluate.run(
            evaluate.EvaluateConfig(
                gallery=birds_gallery, queries=queries.path, hits=out, protocol="encoded", out=str(tmp_path / "measures")
            )
        ),
    ):
        with pytest.raises(ValueError, match="holds the queries of another search"):
            job()
    search.run(config)
    check_encoded_for(out, open_gallery(queries.path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hits.config.yaml", "hits.parquet", "hits.queries", "images"]


def test_hits_next_to_the_config_of_a_search_that_was_stopped_have_their_own_options(birds_gallery, tmp_path, monkeypatch, capsys):
    """M12: a measure over the first k hits takes the k of the search that found them."""
    out = str(tmp_path / "hits.parquet")
    config = search.SearchConfig(gallery=birds_gallery, queries=birds_gallery, out=out, k=2)
    search.run(config)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(search, "write_hits", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        search.run(dataclasses.replace(config, k=9))
    assert "k: 9" in (tmp_path / "hits.config.yaml").read_text() and options_of_hits(out)["k"] == 2
    measuring = evaluate.EvaluateConfig(gallery=birds_gallery, hits=out, protocol="encoded", out=str(tmp_path / "measures"))
    assert "mAP@2" in evaluate.run(measuring).measures["encoded, hits"]
    hits = read_hits(out)
    write_hits(out, hits)  # as older versions did: then the config is all there is
    assert options_of_hits(out)["k"] == 9


def test_a_search_by_embedding_is_that_of_the_api(tiny_model, photos, tmp_path):
    gallery = str(tmp_path / "gallery")
    encode.run(encode.EncodeConfig(model=str(tiny_model), images=str(photos), out=gallery, embedding=True, engine="local"))
    config = search.SearchConfig(gallery=gallery, queries=gallery, k=5, by="embedding", out=str(tmp_path / "hits.parquet"))
    hits = search.run(config)
    assert hits.equals(eet.search(gallery, gallery, k=5, by="embedding").table) and hits["score"].to_numpy().max() <= 1.001
    problems = search.SearchConfig(**{**vars(config), "rescore": 3, "shards": 2}).problems()
    assert problems == [f"--{name} is for a search by code: leave it out with --by embedding" for name in ("shards", "rescore")]
