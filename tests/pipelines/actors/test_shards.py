"""A gallery held in shards answers as one process does."""

import contextlib
import shutil

import pytest
from ray.exceptions import RayTaskError
from search_by_loop import answered, loop

from eet.errors import EetError
from eet.gallery import Gallery, open_gallery
from eet.retrieval.gallery_index import GalleryIndex, merged
from eet.retrieval.search import search_gallery
from eet.serving import FilteredIndex
from pipelines.actors import shards
from pipelines.job.cluster import cluster_resources
from pipelines.job.errors import JobFailed


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


@pytest.mark.timeout(600)  # actors are started and built again, which takes minutes on a busy machine
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
        with shards.sharded_search(gallery, 2, address="local", radius=3, backend="faiss") as near:
            for most in (None, 4):
                expected = loop(parted, asked[1], most or 1000, asked[2], radius=3)
                assert answered(search_gallery(parted, asked[1], k=most, search=near)) == expected
        (copy / "parts" / "part-000005.parquet").unlink()
        kill_a_shard()
        kill_a_shard()
        with pytest.raises(JobFailed, match=r"shard of parts 1, 3, 5, 7 cannot be built: .* lacks .*part-000005"):
            search_gallery(gallery, asked[0], k=5, search=found)


def test_filters_of_shards_are_those_of_one_process(ray_session, parted, asked):
    codes, hashes = asked[1].codes()[0], asked[2]
    here = FilteredIndex(GalleryIndex.of_gallery(parted))
    there = shards.ShardedIndex(parted, 4, cluster_resources(grows=False))
    try:
        assert (there.num_items, there.label_numbers, there.first_id) == (60, [0, 1, 2, 3, 4], "00")
        for label, prefix, radius in ((None, "", None), (3, "", None), (None, "4", None), (2, "1", 6), (9, "", None), (None, "x", 3)):
            options = {"label": label, "prefix": prefix, "radius": radius, "query_hash": hashes}
            found = there.search(codes, 5, **options)
            assert found.equals(here.search(codes, 5, **options).cast(found.schema)), (label, prefix, radius)
    finally:
        there.close()


def test_a_truncated_part_is_named_and_reported_as_damage(parted, tmp_path):
    copy = tmp_path / "gallery"
    shutil.copytree(parted.path, copy)
    part = copy / "parts" / "part-000003.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    answer = shards.Shard(str(copy), [3], False).search(parted.codes()[0][:1], 5, None)
    assert isinstance(answer, str) and "is damaged" in answer and part.name in answer


@pytest.mark.parametrize("fault", [ValueError("a wrong shape"), OSError("the store went away"), KeyError("a name")])
def test_a_fault_of_eet_in_a_shard_is_raised_and_not_reported_as_an_error_of_the_user(parted, monkeypatch, fault):
    def fails(*_):
        raise fault

    monkeypatch.setattr(GalleryIndex, "of_gallery", fails)
    shard = shards.Shard(parted.path, [0], False)
    with pytest.raises(type(fault), match=str(fault)):
        shard.search(parted.codes()[0][:1], 5, None)


def test_such_a_fault_reaches_the_driver_as_itself(ray_session, parted, asked, tmp_path):
    copy = tmp_path / "gallery"
    shutil.copytree(parted.path, copy)
    (copy / "parts" / "part-000003.parquet").unlink()
    (copy / "parts" / "part-000003.parquet").mkdir()  # nothing that EET expects
    with shards.sharded_search(Gallery(str(copy), parted.manifest), 2, address="local") as found, pytest.raises(RayTaskError) as raised:
        search_gallery(parted, asked[0], k=5, search=found)
    assert not isinstance(raised.value, EetError)


@pytest.mark.parametrize("number_of_shards", [1, 2, 5, 9])
@pytest.mark.parametrize("with_hash", [False, True])
def test_answers_of_shards_merge_into_the_answer_of_all(parted, asked, number_of_shards, with_hash):
    """The merge alone, for any number of shards, one of which may be empty."""
    queries = asked[with_hash]
    indexes = [GalleryIndex.of_gallery(parted, list(range(number, 9, number_of_shards))) for number in range(number_of_shards)]
    indexes.append(GalleryIndex.of_gallery(parted, []))

    def found(codes, k, query_hash=None):
        return merged([index.search(codes, k, query_hash=query_hash) for index in indexes], k)

    for k in (1, 11, 60):
        assert search_gallery(parted, queries, k=k, search=found).equals(search_gallery(parted, queries, k=k))
