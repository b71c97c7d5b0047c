"""Search against a loop over every pair."""

import contextlib
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from eet.datasets import synthetic
from eet.gallery import Gallery, Manifest, open_gallery, part_table, read_hits, read_recall, write_manifest, write_part
from eet.images import read_image
from eet.retrieval import search as searching
from eet.retrieval.gallery_index import GalleryIndex
from eet.retrieval.search import search_gallery
from eet.vit import load_bundle, save_bundle
from pipelines import encode, index, search
from pipelines.actors import shards
from pipelines.job.errors import JobFailed
from pipelines.job.options import DataOptions

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


@pytest.fixture(scope="module")
def bits() -> np.ndarray:
    """60 items on 12 codes, so that most distances are ties."""
    random = np.random.default_rng(0)
    return random.integers(0, 2, (12, BITS), np.uint8)[random.integers(0, 12, 60)]


@pytest.fixture
def gallery(bits, tmp_path) -> Gallery:
    return hand_made(tmp_path / "gallery", bits, [None if row % 7 == 0 else row % 3 for row in range(60)], bad=(5, 17))


def loop(gallery: Gallery, queries: Gallery, k: int, query_hash: np.ndarray | None = None) -> list[tuple]:
    """(query_id, rank, item_id, distance) by looking at every pair."""
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
            found.append((int((query != signs[row]).sum()), round(-asymmetric, 4), item_id))
        answer += [(query_id, rank, item, distance) for rank, (distance, _, item) in enumerate(sorted(found)[:k], start=1)]
    return answer


def answered(hits) -> list[tuple]:
    return list(zip(*(hits[name].to_pylist() for name in ("query_id", "rank", "item_id", "distance")), strict=True))


@pytest.mark.parametrize("k", [1, 7, 57, 58, 200])
def test_a_gallery_against_itself_finds_all_but_the_query_ties_by_id(gallery, k):
    assert answered(search_gallery(gallery, gallery, k=k)) == loop(gallery, gallery, k)


def test_the_same_folder_by_another_name_is_the_same_gallery(gallery, monkeypatch):
    monkeypatch.chdir(Path(gallery.path).parent)
    hits = search_gallery(gallery, open_gallery("gallery"), k=60)
    assert all(query != item for query, _, item, _ in answered(hits)) and len(hits) == 58 * 57


@pytest.mark.parametrize("k", [3, 100])
def test_another_gallery_with_the_same_ids_keeps_them(gallery, bits, tmp_path, k):
    queries = hand_made(tmp_path / "queries", bits[:4], [0, 1, 2, None])
    hits = search_gallery(gallery, queries, k=k)
    assert answered(hits) == loop(gallery, queries, k)
    assert len(hits) == 4 * min(k, 58)


@pytest.mark.parametrize("k", [1, 9, 58])
def test_inside_a_distance_the_hash_orders_then_the_id_and_scores_fall_with_the_rank(gallery, tmp_path, k):
    hashes = np.random.default_rng(1).integers(-8, 9, (5, BITS)).astype(np.float32) + 0.5  # exact sums: real ties, no rounding
    codes = (hashes > 0).astype(np.uint8)
    queries = hand_made(tmp_path / "queries", codes, [0] * 5, prefix="query", hashes=hashes)
    hits = search_gallery(gallery, queries, k=k)
    assert answered(hits) == loop(gallery, queries, k, hashes)
    by_distance = search_gallery(gallery, hand_made(tmp_path / "without", codes, [0] * 5, prefix="query"), k=k)
    assert k == 1 or answered(hits) != answered(by_distance)
    for found in (hits, by_distance):
        scores, ids = np.array(found["score"].to_pylist()), np.array(found["query_id"].to_pylist())
        assert all((np.diff(scores[ids == query]) <= 1e-6).all() for query in np.unique(ids))


def test_labels_come_along_and_unknown_ones_are_null(gallery, bits, tmp_path):
    queries = hand_made(tmp_path / "queries", bits[:2], [1, None], prefix="query")
    hits = search_gallery(gallery, queries, k=58)
    label_of = dict(zip(gallery.codes()[1].to_pylist(), gallery.labels().tolist(), strict=True))
    assert hits["query_label"].to_pylist() == [1] * 58 + [None] * 58
    for row in hits.to_pylist():
        assert row["item_label"] == (None if label_of[row["item_id"]] < 0 else label_of[row["item_id"]])


def test_labels_of_queries_are_matched_by_name(bits, tmp_path):
    items = hand_made(tmp_path / "items", bits[:3], [0, 1, 2], names=("crow", "jay", "owl"))
    queries = hand_made(tmp_path / "queries", bits[:4], [0, 1, 2, None], names=("emu", "jay", "crow"), prefix="query")
    hits = search_gallery(items, queries, k=1)
    assert hits["query_label"].to_pylist() == [3, 1, 0, None]


def test_queries_of_another_model_are_refused(gallery, bits, tmp_path):
    other = hand_made(tmp_path / "queries", bits[:2], [0, 0], digest="other")
    with pytest.raises(ValueError, match="encoded with model m, .* has other"):
        search.run(search.SearchConfig(gallery=gallery.path, queries=other.path, out=str(tmp_path / "hits.parquet")))
    assert not (tmp_path / "hits.parquet").exists()


def test_query_pictures_need_a_model(gallery, tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ValueError, match="--model is needed"):
        search.run(search.SearchConfig(gallery=gallery.path, queries=str(tmp_path / "pictures"), out=str(tmp_path / "hits.parquet")))


@pytest.fixture(scope="module")
def birds_gallery(tiny_model, tiny_birds, tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("birds") / "gallery")
    data = DataOptions(name="synthetic", root=str(tiny_birds))
    encode.run(encode.EncodeConfig(model=str(tiny_model), data=data, split="train", out=out, engine="local"))
    return out


@pytest.fixture
def pictures(tiny_birds, tmp_path) -> Path:
    table = synthetic.load(str(tiny_birds)).select("test")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for row in (0, 5, 10):
        shutil.copy(table.location(row), folder / f"{row:02d}.png")
    (folder / "broken.png").write_bytes(b"")
    return folder


def test_pictures_are_encoded_beside_the_hits_and_ordered_by_their_hash(tiny_model, birds_gallery, pictures, tmp_path):
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(pictures), model=str(tiny_model), k=12, out=str(tmp_path / "hits.parquet")
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
            hash_b = student(student.preprocess(read_image(str(pictures / name))).unsqueeze(0), tokens=False).hash[0].numpy()
        distance = ((hash_b > 0) * 2 - 1 != signs).sum(axis=1)
        asymmetric = signs @ hash_b.astype(np.float64)
        rows = [row for row in hits.to_pylist() if row["query_id"] == name]
        assert [row["distance"] for row in rows] == sorted(distance)[:12]
        place = {item: row for row, item in enumerate(ids.to_pylist())}
        for before, after in zip(rows, rows[1:], strict=False):
            if before["distance"] == after["distance"]:
                assert asymmetric[place[before["item_id"]]] >= asymmetric[place[after["item_id"]]] - 1e-3


def test_a_changed_picture_under_the_same_name_is_encoded_anew(tiny_model, birds_gallery, pictures, tmp_path):
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(pictures), model=str(tiny_model), k=3, out=str(tmp_path / "hits.parquet")
    )
    search.run(config)
    others = tmp_path / "others"
    others.mkdir()
    shutil.copy(pictures / "05.png", others / "00.png")  # the name of one query, the picture of another
    hits = search.run(dataclasses.replace(config, queries=str(others)))
    expected = search.run(dataclasses.replace(config, queries=str(pictures / "05.png"), out=str(tmp_path / "alone.parquet")))
    assert set(hits["query_id"].to_pylist()) == {"00.png"}
    assert hits.drop_columns("query_id").equals(expected.drop_columns("query_id"))


def test_a_search_that_fails_leaves_the_queries_of_the_one_before(tiny_model, birds_gallery, pictures, tmp_path):
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(pictures), model=str(tiny_model), k=3, out=str(tmp_path / "hits.parquet")
    )
    search.run(config)
    before = open_gallery(str(tmp_path / "hits.queries")).codes()[1].to_pylist()
    with pytest.raises(ValueError, match="holds no image"):
        search.run(dataclasses.replace(config, queries=str(tiny_model)))
    assert open_gallery(str(tmp_path / "hits.queries")).codes()[1].to_pylist() == before
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "hits.parquet", "hits.config.yaml", "hits.queries"}


def test_queries_never_take_the_place_of_the_gallery(tiny_model, birds_gallery, pictures, tmp_path):
    gallery = tmp_path / "hits.queries"
    shutil.copytree(birds_gallery, gallery)
    config = search.SearchConfig(gallery=str(gallery), queries=str(pictures), model=str(tiny_model), out=str(tmp_path / "hits.parquet"))
    with pytest.raises(ValueError, match="is --gallery itself"):
        search.run(config)
    assert len(open_gallery(str(gallery)).codes()[0]) == len(open_gallery(birds_gallery).codes()[0])


def test_pictures_for_a_gallery_of_another_model_are_refused(tiny_model, birds_gallery, pictures, tmp_path):
    other = load_bundle(tiny_model)
    other.head_hash.bias.data += 1
    save_bundle(other, tmp_path / "other")
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(pictures), model=str(tmp_path / "other"), out=str(tmp_path / "hits.parquet")
    )
    with pytest.raises(ValueError, match="encode both with one model"):
        search.run(config)


def test_a_dry_run_writes_nothing(tiny_model, birds_gallery, pictures, tmp_path, capsys):
    config = search.SearchConfig(
        gallery=birds_gallery, queries=str(pictures), model=str(tiny_model), out=str(tmp_path / "hits.parquet"), dry_run=True
    )
    search.run(config)
    search.run(dataclasses.replace(config, queries=birds_gallery))
    assert capsys.readouterr().out.count("nothing was started") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"pictures"}


@pytest.fixture(scope="module")
def parted(tmp_path_factory) -> Gallery:
    """60 items in 9 parts, the second half appended: ids do not ascend over the parts, and many codes are the same."""
    path = tmp_path_factory.mktemp("parted") / "gallery"
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2, (12, BITS))
    rows = values[rng.integers(0, 12, 60)]
    ids = [f"{n:02d}" for n in [*range(0, 60, 2), *range(1, 60, 2)]]
    manifest = Manifest(model_digest="m", preprocessing_digest="p", num_bits=BITS, num_rows=60, num_ok=60, num_parts=9, rows_per_part=7)
    for part, places in enumerate(np.array_split(np.arange(60), 9)):
        names = [ids[place] for place in places]
        table = part_table(
            names, names, places % 5, np.packbits(rows[places], axis=1), ["ok"] * len(names), [None] * len(names), schema=manifest.schema
        )
        write_part(str(path), part, table)
    write_manifest(str(path), manifest)
    return open_gallery(str(path))


@pytest.fixture(scope="module")
def asked(parted, tmp_path_factory) -> tuple[Gallery, Gallery, np.ndarray]:
    """The same queries without hashes and with them, and the hashes."""
    hashes = np.random.default_rng(4).integers(-8, 9, (23, BITS)).astype(np.float32) + 0.5
    folder, codes = tmp_path_factory.mktemp("asked"), (hashes > 0).astype(np.uint8)
    plain = hand_made(folder / "plain", codes, [0] * 23, prefix="query")
    return plain, hand_made(folder / "hashed", codes, [0] * 23, prefix="query", hashes=hashes), hashes


@pytest.mark.parametrize("with_hash", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_an_appended_gallery_an_index_and_blocks_of_queries_give_the_loops_hits(parted, asked, tmp_path, monkeypatch, with_hash, own):
    monkeypatch.setattr(searching, "QUERIES_AT_ONCE", 7)
    queries, hashes = (parted, None) if own else (asked[1], asked[2]) if with_hash else (asked[0], None)
    index.run(index.IndexConfig(gallery=parted.path, out=str(tmp_path / "index")))
    mapped = GalleryIndex.load(str(tmp_path / "index")).search
    for k in (1, 8, 60):
        plain = search_gallery(parted, queries, k=k)
        assert sorted_by_query(answered(plain)) == sorted_by_query(loop(parted, queries, k, hashes))
        assert search_gallery(parted, queries, k=k, search=mapped).equals(plain)


def sorted_by_query(rows: list[tuple]) -> list[tuple]:
    return sorted(rows, key=lambda row: (row[0], row[1]))


def kill_a_shard() -> None:
    """Of this session alone."""
    import psutil  # Ray brings its own

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ray::Shard" in " ".join(child.cmdline()):
                child.kill()
                child.wait(10)
                return
    raise AssertionError("no shard runs")


def test_shards_give_the_hits_of_one_process_though_one_is_killed_and_never_fewer(ray_session, parted, asked, tmp_path):
    copy = tmp_path / "gallery"
    shutil.copytree(parted.path, copy)
    gallery = open_gallery(str(copy))
    with shards.sharded_search(gallery, 2, address="local") as found:
        for number, queries in enumerate(asked[:2]):
            for k in (1, 11, 60):
                assert search_gallery(gallery, queries, k=k, search=found).equals(search_gallery(parted, queries, k=k))
            if number == 0:
                kill_a_shard()
        (copy / "parts" / "part-000005.parquet").unlink()
        kill_a_shard()
        kill_a_shard()
        with pytest.raises(JobFailed, match=r"shard of parts 1, 3, 5, 7 cannot be built: .* lacks .*part-000005"):
            search_gallery(gallery, asked[0], k=5, search=found)


@pytest.mark.parametrize("number_of_shards", [1, 2, 5, 9])
@pytest.mark.parametrize("with_hash", [False, True])
def test_answers_of_shards_merge_into_the_answer_of_all(parted, asked, number_of_shards, with_hash):
    """The merge alone, for any number of shards, one of which may be empty."""
    queries = asked[with_hash]
    indexes = [GalleryIndex.of_gallery(parted, list(range(number, 9, number_of_shards))) for number in range(number_of_shards)]
    indexes.append(GalleryIndex.of_gallery(parted, []))

    def found(codes, k, query_hash=None):
        return shards.merged([index.search(codes, k, query_hash=query_hash) for index in indexes], k)

    for k in (1, 11, 60):
        assert search_gallery(parted, queries, k=k, search=found).equals(search_gallery(parted, queries, k=k))


def test_an_index_older_than_its_gallery_is_refused_and_extended(parted, asked, tmp_path, capsys):
    whole, copy, out = Path(parted.path), tmp_path / "gallery", tmp_path / "index"
    shutil.copytree(whole, copy)
    begun = dataclasses.replace(parted.manifest, num_parts=5, num_rows=35, num_ok=35)
    write_manifest(str(copy), begun)
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

    write_part(str(copy), 2, open_gallery(str(copy)).table().slice(14, 7))  # the same rows, written anew
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
    told = capsys.readouterr().out
    assert f"recall@20 {recall['recall']:.4f} against exact search, on 23 queries" in told
    assert len(full) < 23 and f"{23 - len(full)} queries got fewer hits" in told
    for query in set(farthest):  # what is found stands in the order of an exact search
        order = [item for asked_, _, item, _ in loop(parted, asked[0], 60) if asked_ == query]
        places = [order.index(item) for found, _, item, _ in answered(hits) if found == query]
        assert places == sorted(places)
    search.run(dataclasses.replace(ivf, recall_queries=4))
    assert read_recall(ivf.out)["queries"] == 4


@pytest.mark.parametrize("own", [False, True])
def test_all_lists_probed_is_an_exact_search_of_which_no_recall_is_told(ivf, parted, asked, own, capsys):
    queries = parted if own else asked[0]
    hits = search.run(dataclasses.replace(ivf, probes=6, queries=queries.path))
    assert hits.equals(search_gallery(parted, queries, k=20))
    assert read_recall(ivf.out) is None and "approximate" not in capsys.readouterr().out


def test_an_item_that_asks_for_itself_still_gets_k_others(ivf, parted, capsys):
    search.run(dataclasses.replace(ivf, queries=parted.path, probes=5, k=2))
    told = capsys.readouterr().out
    assert "recall@2 " in told and "fewer" not in told and read_recall(ivf.out)["k"] == 2


def test_an_ivf_index_is_extended_in_its_own_lists_and_kinds_are_not_mixed(parted, asked, tmp_path):
    copy, out = tmp_path / "gallery", tmp_path / "index"
    shutil.copytree(parted.path, copy)
    write_manifest(str(copy), dataclasses.replace(parted.manifest, num_parts=5, num_rows=35, num_ok=35))
    make = index.IndexConfig(gallery=str(copy), out=str(out), kind="ivf", lists=5)
    first = index.run(make)
    write_manifest(str(copy), parted.manifest)
    index.run(dataclasses.replace(make, kind=None, lists=None))
    second = GalleryIndex.load(str(out)).codes
    assert second.kind == "ivf" and second.num_items == 60
    np.testing.assert_array_equal(second.centroids_LB, first.codes.centroids_LB)
    second = second.with_probes(5)
    found = dataclasses.replace(GalleryIndex.load(str(out)), codes=second).search
    assert search_gallery(parted, asked[0], k=9, search=found).equals(search_gallery(parted, asked[0], k=9))
    with pytest.raises(ValueError, match="is of kind ivf, not exact"):
        index.run(dataclasses.replace(make, kind="exact", lists=None))
    with pytest.raises(ValueError, match="has 5 lists, not 7"):
        index.run(dataclasses.replace(make, lists=7))
    index.run(index.IndexConfig(gallery=str(copy), out=str(tmp_path / "exact")))
    exact, hits = str(tmp_path / "exact"), str(tmp_path / "hits.parquet")
    ask = search.SearchConfig(gallery=str(copy), queries=asked[0].path, index=exact, probes=2, out=hits)
    with pytest.raises(ValueError, match="kind exact, which has no lists: leave probes out"):
        search.run(ask)


def test_impossible_options_of_an_index_are_named():
    assert "--lists is of --kind ivf alone" in index.IndexConfig(gallery="g", out="i", lists=4).problems()
    assert "--lists 0" in " ".join(index.IndexConfig(gallery="g", out="i", kind="ivf", lists=0).problems())
    told = " ".join(search.SearchConfig(gallery="g", queries="q", out="h.parquet", probes=0, recall_queries=0).problems())
    assert "--probes 0" in told and "--probes is of an --index" in told and "--recall_queries 0" in told


def test_an_index_never_takes_the_place_of_other_files(parted, tmp_path):
    copy = tmp_path / "gallery"
    shutil.copytree(parted.path, copy)
    for out in (copy, tmp_path):
        with pytest.raises(ValueError, match="holds other files"):
            index.run(index.IndexConfig(gallery=str(copy), out=str(out)))
    assert open_gallery(str(copy)).table().equals(parted.table()) and {path.name for path in tmp_path.iterdir()} == {"gallery"}


def test_a_link_to_the_gallery_is_the_gallery(parted, tmp_path):
    (tmp_path / "link").symlink_to(parted.path)
    hits = search_gallery(parted, open_gallery(str(tmp_path / "link")), k=3)
    assert all(query != item for query, _, item, _ in answered(hits))
