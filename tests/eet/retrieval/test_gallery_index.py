"""Indexes that are written in bounded memory against those made in memory."""

import dataclasses
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from drawn_gallery import drawn, first_parts, grown

from eet.errors import DamagedError, InputError
from eet.gallery import Gallery, external_sort
from eet.retrieval import gallery_index
from eet.retrieval.gallery_index import GalleryIndex, by_id, taken_ids
from eet.search import build_index


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["exact", "ivf"])
@pytest.mark.slow
def test_every_file_is_that_of_the_way_in_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(gallery_index, "IDS_AT_ONCE", 50)
    monkeypatch.setattr(gallery_index, "MERGED_AT_ONCE", 13)
    monkeypatch.setattr("eet.search.ivf_index.ITEMS_AT_ONCE", 17)
    monkeypatch.setattr("eet.search.numbered_codes.ITEMS_OF_BLOCK", 9)
    monkeypatch.setattr(external_sort, "BLOCK_ROWS", 7)
    forms, segmented = set(), 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        bits, parts = int(rng.integers(1, 257)), int(rng.integers(1, 6))
        sizes = rng.integers(0, 50, parts).tolist() if seed else [0]
        gallery = drawn(tmp_path / f"{seed}", rng, bits, sizes, int(rng.choice([1, 5, 40, 10**4])))
        options = {"lists": int(rng.integers(1, 9))} if kind == "ivf" and seed % 2 else {}
        at_once = int(rng.choice([7, 30, 1000]))
        folders = {name: tmp_path / f"{seed}-{name}" for name in ("first", "whole", "wanted", "extended", "rebuilt")}
        for folder in folders.values():
            folder.mkdir()
        codes, item_ids, labels = by_id(gallery.coded_rows())
        in_memory = GalleryIndex(build_index(kind, codes, num_bits=bits, **options), item_ids, labels)
        in_memory.save(folders["wanted"], gallery)
        GalleryIndex.write(folders["whole"], gallery, kind=kind, options=options, at_once=at_once)
        assert files(folders["whole"]) == files(folders["wanted"]), seed
        before = int(rng.integers(0, len(sizes) + 1))
        first = first_parts(gallery, before)
        GalleryIndex.write(folders["first"], first, kind=kind, options=options, at_once=at_once)
        GalleryIndex.write_extended(folders["extended"], gallery, str(folders["first"]), at_once=at_once)
        extended = GalleryIndex.load(str(folders["extended"]))
        if extended.added:  # the files of both segments are those of a new index of their parts
            (folders["rebuilt"] / "segments").mkdir()
            for number, parts in enumerate((range(before), range(before, len(sizes)))):
                rows = by_id(gallery.coded_rows(parts))
                segment = folders["rebuilt"] / "segments" / str(number)
                GalleryIndex(build_index(kind, rows.codes_NB, num_bits=bits), rows.item_ids, rows.labels_N).save(segment, first)
                (segment / "index.json").unlink()
                assert files(folders["extended"] / "segments" / str(number)) == files(segment), seed
            segmented += 1
        else:
            rebuilt = GalleryIndex.load(str(folders["first"])).codes.rebuilt(codes)
            GalleryIndex(rebuilt, item_ids, labels).save(folders["rebuilt"], gallery)
            assert files(folders["extended"]) == files(folders["rebuilt"]), seed
            forms.add((len(GalleryIndex.load(str(folders["first"])).codes.codes.offsets) > 0, len(rebuilt.codes.offsets) > 0))
    assert (segmented > 3) == (kind == "exact")
    assert {(True, True), (False, False)} <= forms and len(forms) > 2  # also from one form to the other


@pytest.mark.slow
def test_memory_does_not_grow_with_the_gallery(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_index, "IDS_AT_ONCE", 500)
    monkeypatch.setattr(gallery_index, "MERGED_AT_ONCE", 100)
    monkeypatch.setattr("eet.search.numbered_codes.ITEMS_OF_BLOCK", 100)
    monkeypatch.setattr(external_sort, "BLOCK_ROWS", 50)
    pool = pa.default_memory_pool()
    peaks = {}
    for number in (20, 100):
        rng = np.random.default_rng(0)
        gallery = drawn(tmp_path / f"{number}", rng, 64, [500] * number, 900, failed=0)
        (tmp_path / f"index-{number}").mkdir()
        counted = pa.proxy_memory_pool(pool)
        pa.set_memory_pool(counted)
        tracemalloc.start()
        try:
            GalleryIndex.write(tmp_path / f"index-{number}", gallery, at_once=1000)
            peaks[number] = tracemalloc.get_traced_memory()[1] + counted.max_memory()
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(pool)
    assert peaks[100] < 2 * peaks[20], peaks


def test_a_damaged_count_is_refused(tmp_path):
    gallery = drawn(tmp_path / "gallery", np.random.default_rng(0), 16, [5, 5], 9)
    wrong = Gallery(gallery.path, dataclasses.replace(gallery.manifest, num_ok=3))
    (tmp_path / "index").mkdir()
    with pytest.raises(InputError, match="its manifest counts 3"):
        GalleryIndex.write(tmp_path / "index", wrong)


def test_ids_of_rows_are_found_in_any_chunk():
    ids = pa.array([f"{n}" for n in range(50)], pa.large_string())
    chunked = pa.chunked_array([ids.slice(start, 7) for start in range(0, 50, 7)])
    for rows in (np.random.default_rng(0).integers(0, 50, 200), np.empty(0, np.int64)):
        assert taken_ids(chunked, rows).equals(ids.take(pa.array(rows))) and taken_ids(ids, rows).equals(ids.take(pa.array(rows)))


@pytest.mark.slow
def test_an_index_in_segments_answers_as_one_of_all_items(tmp_path):
    counts = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        bits, number = int(rng.integers(1, 100)), 9
        gallery = drawn(tmp_path / f"{seed}", rng, bits, [int(rng.choice([60, 20])), *rng.integers(0, 12, number - 1).tolist()], 30)
        steps = sorted({1, number, *rng.integers(1, number, 5).tolist()})
        index = GalleryIndex.load(str(grown(tmp_path / f"{seed}-grown", gallery, steps)))
        plain = GalleryIndex.of_gallery(gallery)
        counts.add(len(index.segments))
        assert index.num_items == plain.num_items == sum(segment.num_items for segment in index.segments)
        assert 2 ** (len(index.segments) - 1) <= plain.num_items
        codes = np.concatenate([plain.codes.packed_codes()[:5], rng.integers(0, 256, (4, -(-bits // 8)), dtype=np.uint8)])
        if bits % 8:
            codes[:, -1] &= 256 - 2 ** (8 - bits % 8)
        hashes = rng.normal(size=(len(codes), bits)).round(1)
        for backend in ("native", "faiss"):
            found, wanted = index.with_backend(backend), plain.with_backend(backend)
            for options in ({"k": 1}, {"k": 7}, {"k": 500}, {"k": None, "radius": bits // 3}, {"k": 4, "radius": 2}):
                for query_hash in (None, hashes):
                    answer = found.search(codes, **options, query_hash=query_hash)
                    assert answer.equals(wanted.search(codes, **options, query_hash=query_hash)), (seed, backend, options)
    assert len(counts) > 2


def test_an_extension_writes_what_is_new_and_links_the_rest(tmp_path):
    gallery = drawn(tmp_path / "gallery", np.random.default_rng(0), 32, [400, 20, 10, 100], 200, failed=0)
    last = grown(tmp_path / "grown", gallery, [1, 2, 3])
    assert [segment.codes.num_items for segment in GalleryIndex.load(str(last)).segments] == [400, 30]  # 20 is not above 2 x 10
    base = tmp_path / "grown" / "1" / "codes.npy"
    assert (last / "segments" / "0" / "codes.npy").samefile(base) and not (last / "codes.npy").exists()
    (tmp_path / "more").mkdir()
    GalleryIndex.write_extended(tmp_path / "more", gallery, str(last))
    more = GalleryIndex.load(str(tmp_path / "more"))
    assert [segment.codes.num_items for segment in more.segments] == [400, 130]
    assert more.describe().startswith("530 items in 2 segments, the first of 400 items")


def test_a_record_of_impossible_segments_is_damage(tmp_path):
    gallery = drawn(tmp_path / "gallery", np.random.default_rng(0), 32, [400, 20], 200)
    last = grown(tmp_path / "grown", gallery, [1, 2])
    record = json.loads((last / "index.json").read_text())
    assert record["segment_ends"] == [1, 2]
    for ends in ([2, 1], [1, 3], [-1, 2]):
        (last / "index.json").write_text(json.dumps({**record, "segment_ends": ends}))
        with pytest.raises(DamagedError, match="segment_ends"):
            GalleryIndex.load(str(last))


@pytest.mark.parametrize("sizes", [[40, 3], [5, 40]], ids=["a segment more", "one segment still"])
def test_an_index_that_is_replaced_while_it_is_loaded_is_never_mixed_with_the_new_one(tmp_path, monkeypatch, sizes):
    gallery = drawn(tmp_path / "gallery", np.random.default_rng(0), 32, sizes, 200, failed=0)
    last = grown(tmp_path / "grown", gallery, [1, 2])
    index = tmp_path / "grown" / "1"
    load, swapped = np.load, []

    def load_late(*given, **options):
        if not swapped:
            swapped.append(index.rename(tmp_path / "old"))
            last.rename(index)
        return load(*given, **options)

    monkeypatch.setattr(np, "load", load_late)
    found = GalleryIndex.load(str(index))
    assert swapped and found.num_items == sum(sizes)
    assert found.search(found.codes.packed_codes()[:3], 50).equals(
        GalleryIndex.of_gallery(gallery).search(found.codes.packed_codes()[:3], 50)
    )
    (index / ("segments/1/labels.npy" if found.added else "labels.npy")).unlink()
    with pytest.raises(DamagedError, match=r"it lacks .*labels.npy"):
        GalleryIndex.load(str(index))
