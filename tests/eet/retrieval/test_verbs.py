"""The functions of the Python API: encode, search, rerank, evaluate."""

import dataclasses
import gc
import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch

import eet
from eet.datasets import ImageTable, synthetic
from eet.errors import InputError
from eet.gallery import Gallery, is_gallery, write_hits, write_part
from eet.matching import ConvergenceWarning
from eet.retrieval.measures import encoded_measures, hits_measures
from eet.retrieval.pairs import scoring_here
from eet.retrieval.rerank import match_options, reranked_hits
from eet.storage import resolve
from eet.vit import save_bundle
from pipelines import rerank as rerank_job
from pipelines import search as search_job


@pytest.fixture(scope="module")
def model(tiny_model: Path):
    return eet.load_model(tiny_model)


@pytest.fixture(scope="module")
def birds(tiny_birds: Path) -> ImageTable:
    return synthetic.load(str(tiny_birds))


@pytest.fixture(scope="module")
def paths(birds) -> list[str]:
    return [birds.location(row) for row in range(len(birds))]


@pytest.fixture(scope="module")
def gallery(model, birds, paths):
    return eet.encode(model, paths, labels=birds.labels.tolist(), label_names=birds.label_names, tokens=True)


@pytest.fixture(scope="module")
def hits(gallery):
    return eet.search(gallery, gallery, k=12)


def galleries_in_memory() -> set[str]:
    filesystem, path = resolve("memory://eet")
    return {entry.path for entry in filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))}


def test_a_gallery_in_memory_is_freed_when_it_is_let_go(model, paths):
    before = galleries_in_memory()
    gallery = eet.encode(model, paths[:2])
    path, hits = gallery.path, eet.search(gallery, gallery)
    del gallery
    gc.collect()
    assert is_gallery(path)  # the hits hold it
    del hits
    gc.collect()
    assert not is_gallery(path)
    assert galleries_in_memory() == before


def test_nothing_stays_in_memory_of_an_encoding_that_failed(model, paths, monkeypatch):
    before = galleries_in_memory()
    monkeypatch.setattr("eet.gallery.parts.write_part", fail_at(0))
    with pytest.raises(RuntimeError, match="cut off"):
        eet.encode(model, paths[:2])
    assert galleries_in_memory() == before


def test_the_callers_number_of_torch_threads_stays(model, paths):
    before = torch.get_num_threads()
    eet.encode(model, paths[:1], threads=before + 1)
    assert torch.get_num_threads() == before


def test_labels_belong_to_the_images_in_the_order_given(model, paths):
    gallery = eet.encode(model, [Path(path) for path in paths[3::-1]], labels=[2, None, -1, 0], label_names=["a", "b", "c"])
    assert gallery.manifest.label_names == ("a", "b", "c")
    assert dict(zip(gallery.codes()[1].to_pylist(), gallery.labels().tolist(), strict=True)) == {
        paths[3]: 2, paths[2]: -1, paths[1]: -1, paths[0]: 0,
    }  # fmt: skip


def test_an_unreadable_image_is_a_row_that_says_why(model, paths, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    gallery = eet.encode(model, [paths[0], str(bad)])
    (row,) = gallery.errors().to_pylist()
    assert row["item_id"] == str(bad) and row["error"]
    assert gallery.codes()[1].to_pylist() == [paths[0]]


def test_a_folder_is_encoded_with_relative_ids(model, photos):
    one = eet.encode(model, photos / "0-03.png")
    assert one.manifest.num_ok == 1
    every = eet.encode(model, str(photos / "0-0*.png"))
    assert {Path(item_id).name for item_id in every.codes()[1].to_pylist()} == {f"0-0{digit}.png" for digit in range(10)}


def fail_at(failing: int):
    """`write_part`, which is cut off at one part."""

    def write(gallery, part, *rest, **options):
        if part == failing:
            raise RuntimeError("cut off")
        write_part(gallery, part, *rest, **options)

    return write


def times(out: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in sorted(out.glob("parts/*.parquet"))}


def test_an_encoding_that_was_cut_off_goes_on(model, paths, tmp_path, monkeypatch):
    out, given = tmp_path / "gallery", {"images": paths[:7], "labels": list(range(7)), "rows_per_part": 3}
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="cut off"):
        patch.setattr("eet.gallery.parts.write_part", fail_at(1))
        eet.encode(model, out=out, **given)
    with pytest.raises(eet.EetError, match="not a finished gallery"):
        eet.open_gallery(str(out))
    first = times(out)
    assert list(first) == ["part-000000.parquet"]
    resumed = eet.encode(model, out=out, **given)
    assert times(out).items() >= first.items() and len(times(out)) == 3
    assert resumed.table().equals(eet.encode(model, **given).table())
    done = times(out)
    again = eet.encode(model, out=str(out), **given)
    assert times(out) == done and again.manifest == resumed.manifest


def test_other_images_or_labels_are_not_taken_for_those_that_are_there(model, paths, tmp_path):
    out = tmp_path / "gallery"
    eet.encode(model, paths[:2], labels=[0, 1], out=out)
    for images, labels in (([paths[0], paths[2]], [0, 1]), (paths[:2], [1, 1])):
        with pytest.raises(eet.EetError, match="finished gallery of 2 images"):
            eet.encode(model, images, labels=labels, out=out)
    added = eet.encode(model, [paths[0], paths[2]], labels=[0, 1], out=out, mode="append")
    assert sorted(added.codes()[1].to_pylist()) == sorted(paths[:3])
    replaced = eet.encode(model, paths[4:6], out=out, mode="overwrite")
    assert sorted(replaced.codes()[1].to_pylist()) == sorted(paths[4:6])


def test_a_bar_is_shown_where_it_is_asked_for(model, paths, capfd):
    eet.encode(model, paths[:1], progress=False)
    assert capfd.readouterr().err == ""
    eet.encode(model, paths[:1], progress=True)
    assert "0/1" in capfd.readouterr().err


def test_a_gallery_searched_with_itself_gives_the_nearest_others(gallery, hits):
    codes, ids = gallery.codes()
    bits = np.unpackbits(codes, axis=1)
    distances = (bits[:, None] != bits[None]).sum(axis=2)
    place = {item_id: row for row, item_id in enumerate(ids.to_pylist())}
    assert len(hits) == 12 * len(codes) and sorted(hits.query_ids) == sorted(place)
    for row in hits.table.to_pylist():
        assert row["query_id"] != row["item_id"]
        assert row["distance"] == distances[place[row["query_id"]], place[row["item_id"]]]
    np.fill_diagonal(distances, 99)
    found = np.array(hits.table["distance"]).reshape(-1, 12)
    wanted = [np.sort(distances[place[query_id]])[:12] for query_id in hits.query_ids]
    np.testing.assert_array_equal(found, wanted)


def test_queries_of_another_gallery_find_themselves(model, gallery, paths):
    hits = eet.search(gallery, eet.encode(model, [paths[5]]), k=1)
    assert hits.table["distance"].to_pylist() == [0]
    assert len(eet.search(gallery, eet.encode(model, [paths[5]]), k=1000)) == len(paths)


@pytest.mark.parametrize(
    "options",
    [{}, {"marginal": "uniform", "transported": 0.6, "weight": 2.0, "global_similarity": "hamming"}, {"solver": "maxsim", "weight": 3.0}],
)
def test_reranking_is_that_of_the_job(model, birds, paths, tmp_path, options):
    out = str(tmp_path / "gallery")
    gallery = eet.encode(model, paths, labels=birds.labels.tolist(), label_names=birds.label_names, tokens=True, out=out, rows_per_part=20)
    hits = eet.search(out, out, k=10)
    reranked = eet.rerank(hits, top=6, **options)
    write_hits(str(tmp_path / "hits.parquet"), hits.table)
    config = rerank_job.RerankConfig(
        hits=str(tmp_path / "hits.parquet"), gallery=out, out=str(tmp_path / "new.parquet"), top=6, engine="local", **options
    )
    assert reranked.table.equals(rerank_job.run(config))
    assert reranked.table["item_id"] != hits.table["item_id"]
    assert reranked.gallery is hits.gallery and gallery.manifest == reranked.gallery.manifest


@pytest.mark.parametrize("embedding_as", ["float16", "int4"])
def test_a_search_re_orders_hits_by_codes_and_embeddings(model, paths, tmp_path, embedding_as):
    """As a re-ranking without tokens does, and as the job does."""
    out = str(tmp_path / "gallery")
    eet.encode(model, paths, embedding=True, embedding_as=embedding_as, out=out, rows_per_part=20)
    plain, found = eet.search(out, out, k=10), eet.search(out, out, k=10, rescore=6, rescore_weight=0.5)
    assert found.table.equals(eet.rerank(plain, top=6, weight=0, embedding_weight=0.5).table)
    assert found.table["item_id"] != plain.table["item_id"]
    assert found.table["score_global"].null_count == 4 * len(paths)
    written = search_job.run(
        search_job.SearchConfig(gallery=out, queries=out, k=10, rescore=6, rescore_weight=0.5, out=str(tmp_path / "hits.parquet"))
    )
    assert written.equals(found.table)


def test_hits_are_re_ordered_by_codes_alone_where_there_are_no_embeddings(model, paths):
    """By the sum of |hash| over the bits that agree minus that over the others."""
    items = eet.encode(model, paths)
    plain, found = eet.search(items, items, k=10), eet.search(items, items, k=10, rescore=6)
    assert found.table.equals(eet.rerank(plain, top=6, weight=0).table)
    assert found.table["item_id"] != plain.table["item_id"]
    rows = {item: row for row, item in enumerate(items.table()["item_id"].to_pylist())}
    signs_Nb = np.where(np.unpackbits(items.codes()[0], axis=1, count=items.manifest.num_bits), 1.0, -1.0)
    for hit in found.table.slice(0, 60).to_pylist():
        if hit["rank"] <= 6:
            query_b = np.asarray(items.hashes()[rows[hit["query_id"]]], np.float64)
            expected = query_b @ signs_Nb[rows[hit["item_id"]]] / np.abs(query_b).sum()
            assert hit["score_global"] == pytest.approx(expected, abs=1e-3)
    stored = eet.encode(model, paths, embedding=True)
    default, codes = (eet.search(stored, stored, k=10, rescore=6, rescore_weight=weight) for weight in (None, 0.0))
    assert default.table["item_id"] != codes.table["item_id"] == found.table["item_id"]


def test_re_ordering_needs_something_to_order_by_and_a_number_that_is_searched(gallery):
    without = Gallery(gallery.path, dataclasses.replace(gallery.manifest, has_hash=False))
    with pytest.raises(InputError, match="nothing to order hits again by: .* has no real-valued hashes, and no embeddings are used"):
        eet.search(gallery, without, k=5, rescore=5)
    with pytest.raises(InputError, match="has no embeddings, which embedding_weight needs: encode it with embedding"):
        eet.search(gallery, gallery, k=5, rescore=5, rescore_weight=1.0)
    with pytest.raises(InputError, match="rescore=6: use 0 to k=5 hits"):
        eet.search(gallery, gallery, k=5, rescore=6)
    with pytest.raises(InputError, match="rescore_weight=-1: use 0 or more"):
        eet.search(gallery, gallery, k=5, rescore=5, rescore_weight=-1)


def test_a_weight_of_embeddings_beside_their_similarity_is_refused(gallery):
    with pytest.raises(InputError, match="embedding_weight=0.5 adds to a similarity of codes, and global_similarity embedding has none"):
        match_options(gallery, gallery, global_similarity="embedding", embedding_weight=0.5)


def test_a_reranking_whose_plans_did_not_converge_names_the_worst(gallery, hits):
    options = match_options(gallery, gallery)

    @contextmanager
    def spoiled():
        def score(queries, pairs):
            with scoring_here(gallery, options) as scorer:
                for scored in scorer(queries, pairs):
                    yield scored._replace(error_P=np.where(scored.pair_P == 3, np.float32(0.25), scored.error_P))

        yield score

    worst = hits.table.sort_by([("query_id", "ascending"), ("rank", "ascending")]).slice(3, 1).to_pylist()[0]
    said = f"1 of {len(hits)} matchings did not converge: .* query '{worst['query_id']}' and item '{worst['item_id']}' by 0.25"
    with pytest.warns(ConvergenceWarning, match=said):
        reranked_hits(hits.table, gallery, gallery, options, top=100, weight=1.0, opened=spoiled())


@pytest.mark.parametrize("transported", [1e-6, 0.01])
def test_a_small_share_re_ranks_as_the_exact_solver_does(gallery, hits, transported):
    """At a small epsilon, where both find the one best pair of tokens."""
    found = eet.rerank(hits, top=5, transported=transported, epsilon=1e-4, marginal="uniform").table["score_struct"].drop_null()
    exact = eet.rerank(hits, top=5, transported=transported, solver="exact", marginal="uniform").table["score_struct"].drop_null()
    np.testing.assert_allclose(np.sort(found.to_numpy()) / transported, np.sort(exact.to_numpy()) / transported, atol=2e-3)


def test_hits_are_measured_in_their_order(gallery, hits):
    better = eet.rerank(hits, top=12)
    for one in (hits, better):
        found = eet.evaluate(one, ks=(1, 5), recall_ks=(2,))
        values = hits_measures(one.table, gallery, own=True, ks=(1, 5), recall_ks=(2,))
        assert dict(found) == values.values and found.notes == tuple(values.notes)
        values = eet.evaluate(one, ties="stable")
        first = [row for row in one.table.to_pylist() if row["rank"] == 1]
        assert values["P@1_stable"] == pytest.approx(np.mean([row["query_label"] == row["item_label"] for row in first]))
        assert found["queries"] == len(first)


def test_a_gallery_is_measured_as_a_whole(model, gallery, birds, paths):
    assert dict(eet.evaluate(gallery)) == encoded_measures(gallery, gallery).measures
    queries = eet.encode(model, paths[:4], labels=birds.labels[:4].tolist(), label_names=birds.label_names)
    found = eet.evaluate(gallery, queries, count_query=True)
    assert dict(found) == encoded_measures(gallery, queries, count_query=True).measures
    assert found["queries"] == 4
    assert "mAP" in str(found) and repr(found) == str(found)


def test_labels_that_the_model_was_trained_on_can_be_measured_alone(model, gallery, hits, birds, tmp_path):
    """The same network, in a bundle that names two of the four labels."""
    names = birds.label_names[:2]
    save_bundle(model, tmp_path / "two", label_names=names)
    for labels, chosen in (("seen", names), ("unseen", birds.label_names[2:])):
        ranked = eet.evaluate(gallery, labels=labels, model=tmp_path / "two")
        assert dict(ranked) == encoded_measures(gallery, gallery, labels=chosen).measures and ranked["queries"] == 24
        found = eet.evaluate(hits, labels=labels, model=tmp_path / "two", denominator="found")
        assert dict(found) == hits_measures(hits.table, gallery, own=True, labels=chosen, denominator="found").values


def test_an_evaluation_prints_its_measures_and_notes(hits):
    shown = str(eet.evaluate(hits, ks=(1, 50)))
    assert re.search(r"^P@1 +0\.\d{4} ±0\.\d{4}$", shown, re.MULTILINE)
    assert "P@50" not in shown and "_low" not in shown
    assert "note: measures at ranks beyond the 12 hits of a query are left out" in shown


MISTAKES = {
    "no image": (lambda s: eet.encode(s.model, []), "no image"),
    "nothing there": (lambda s: eet.encode(s.model, "nowhere/at/all"), "nowhere"),
    "no model": (lambda s: eet.encode("nowhere", s.paths[:1]), "nowhere"),
    "twice": (lambda s: eet.encode(s.model, [s.paths[0]] * 2), "0000.png"),
    "labels": (lambda s: eet.encode(s.model, s.paths[:2], labels=[1]), "1 labels for 2 images"),
    "names": (lambda s: eet.encode(s.model, s.paths[:2], labels=[0, 2], label_names=["a", "b"]), "label 2 has no name"),
    "labels of a folder": (lambda s: eet.encode(s.model, "photos", labels=[1]), "in a folder or table"),
    "mode": (lambda s: eet.encode(s.model, s.paths[:1], mode="again"), "resume, overwrite, append"),
    "precision": (lambda s: eet.encode(s.model, s.paths[:1], precision="fp8"), "auto, fp32, bf16"),
    "rows": (lambda s: eet.encode(s.model, s.paths[:1], rows_per_part=0), "rows_per_part=0"),
    "k": (lambda s: eet.search(s.gallery, s.gallery, k=0), "k=0"),
    "no gallery": (lambda s: eet.search("nowhere", s.gallery), "not a finished gallery"),
    "top": (lambda s: eet.rerank(s.hits, top=0), "top=0"),
    "weight": (lambda s: eet.rerank(s.hits, weight=-1), "weight=-1"),
    "threads": (lambda s: eet.rerank(s.hits, threads=0), "threads=0"),
    "marginal": (lambda s: eet.rerank(s.hits, marginal="mass"), "marginal 'mass' is unknown; choose one of uniform, importance"),
    "solver": (lambda s: eet.rerank(s.hits, solver="simplex"), "solver 'simplex' is unknown"),
    "similarity": (lambda s: eet.rerank(s.hits, global_similarity="cosine"), "choose one of hamming, asymmetric, embedding"),
    "transported": (lambda s: eet.rerank(s.hits, transported=1.5), "1.5"),
    "epsilon": (lambda s: eet.rerank(s.hits, epsilon=0), "epsilon"),
    "no embedding": (lambda s: eet.rerank(s.hits, global_similarity="embedding"), "has no embeddings"),
    "no tokens": (lambda s: eet.rerank(eet.search(s.plain, s.plain)), "has no tokens"),
    "no labels": (lambda s: eet.evaluate(s.plain), "has no labels"),
    "no labels of hits": (lambda s: eet.evaluate(eet.search(s.plain, s.plain)), "no query labels"),
    "labels without a model": (lambda s: eet.evaluate(s.gallery, labels="seen"), "needs model"),
    "labels of none": (lambda s: eet.evaluate(s.gallery, labels="old"), "needs model"),
    "ties": (lambda s: eet.evaluate(s.gallery, ties="none"), "'expected' or 'stable'"),
    "queries twice": (lambda s: eet.evaluate(s.hits, s.gallery), "leave them out"),
}


@pytest.fixture(scope="module")
def scene(model, paths, gallery, hits):
    return SimpleNamespace(model=model, paths=paths, gallery=gallery, hits=hits, plain=eet.encode(model, paths[:2]))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(scene, mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(eet.EetError) as raised:
        call(scene)
    assert message in str(raised.value)


def test_galleries_of_two_models_do_not_meet(scene, tiny_base):
    other = eet.encode(tiny_base, scene.paths[:1])
    with pytest.raises(eet.EetError, match="encode both with one model"):
        eet.search(scene.gallery, other)
