"""Indexes that are written in bounded memory against those made in memory."""

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eet.errors import InputError
from eet.gallery import Gallery, Manifest, external_sort, open_gallery, part_table, write_manifest, write_part
from eet.retrieval import gallery_index
from eet.retrieval.gallery_index import GalleryIndex, by_id, taken_ids
from eet.search import build_index


def drawn(folder: Path, rng: np.random.Generator, bits: int, part_sizes: list[int], values: int, *, failed: float = 0.1) -> Gallery:
    """A gallery of parts of these sizes; ids are in no order over the parts, some rows have no label, some no code."""
    number = sum(part_sizes)
    hashes = rng.integers(0, 2, (values, bits))[rng.integers(0, values, number)]
    names = rng.permutation([f"é/{n}" if n % 3 else f"z{n:05d}.jpg" for n in range(number)]) if number else np.empty(0, str)
    ok = rng.random(number) >= failed
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=bits, num_rows=number, num_ok=int(ok.sum()), num_parts=len(part_sizes),
        rows_per_part=max([*part_sizes, 1]), errors={"missing": int((~ok).sum())} if not ok.all() else {},
    )  # fmt: skip
    for part, places in enumerate(np.split(np.arange(number), np.cumsum(part_sizes)[:-1])):
        ids = sorted(names[places].tolist())
        labels = [None if place % 4 == 0 else int(place) % 9 for place in places]
        statuses = ["ok" if ok[place] else "missing" for place in places]
        errors = [None if status == "ok" else status for status in statuses]
        packed = np.packbits(hashes[places], axis=1)
        write_part(str(folder), part, part_table(ids, ids, labels, packed, statuses, errors, schema=manifest.schema))
    write_manifest(str(folder), manifest)
    return open_gallery(str(folder))


def first_parts(gallery: Gallery, number: int) -> Gallery:
    """The same gallery before its other parts were appended."""
    num_ok = len(gallery.coded_rows(range(number)).codes_NB)
    return Gallery(gallery.path, dataclasses.replace(gallery.manifest, num_parts=number, num_ok=num_ok))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_every_file_is_that_of_the_way_in_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(gallery_index, "IDS_AT_ONCE", 50)
    monkeypatch.setattr(gallery_index, "MERGED_AT_ONCE", 13)
    monkeypatch.setattr("eet.search.ivf_index.ITEMS_AT_ONCE", 17)
    monkeypatch.setattr("eet.search.numbered_codes.ITEMS_OF_BLOCK", 9)
    monkeypatch.setattr(external_sort, "BLOCK_ROWS", 7)
    forms = set()
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
        GalleryIndex.write(folders["whole"], gallery, range(len(sizes)), kind=kind, options=options, at_once=at_once)
        assert files(folders["whole"]) == files(folders["wanted"]), seed
        before = int(rng.integers(0, len(sizes) + 1))
        GalleryIndex.write(folders["first"], first_parts(gallery, before), range(before), kind=kind, options=options, at_once=at_once)
        GalleryIndex.write(folders["extended"], gallery, range(before, len(sizes)), extended=str(folders["first"]), at_once=at_once)
        rebuilt = GalleryIndex.load(str(folders["first"])).codes.rebuilt(codes)
        GalleryIndex(rebuilt, item_ids, labels).save(folders["rebuilt"], gallery)
        assert files(folders["extended"]) == files(folders["rebuilt"]), seed
        forms.add((len(GalleryIndex.load(str(folders["first"])).codes.codes.offsets) > 0, len(rebuilt.codes.offsets) > 0))
    assert {(True, True), (False, False)} <= forms and len(forms) > 2  # also from one form to the other


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
            GalleryIndex.write(tmp_path / f"index-{number}", gallery, range(number), at_once=1000)
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
        GalleryIndex.write(tmp_path / "index", wrong, range(2))


def test_ids_of_rows_are_found_in_any_chunk():
    ids = pa.array([f"{n}" for n in range(50)], pa.large_string())
    chunked = pa.chunked_array([ids.slice(start, 7) for start in range(0, 50, 7)])
    for rows in (np.random.default_rng(0).integers(0, 50, 200), np.empty(0, np.int64)):
        assert taken_ids(chunked, rows).equals(ids.take(pa.array(rows))) and taken_ids(ids, rows).equals(ids.take(pa.array(rows)))
