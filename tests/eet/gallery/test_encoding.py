"""A gallery has one owner, and its parts are of one model and one plan, whatever was in its folder before."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import eet
from eet.errors import DamagedError, InputError
from eet.gallery import Gallery, open_gallery, part_name, planned_parts, write_part
from eet.gallery.job import QUERIES_MARKER
from eet.storage import TakenOverError, claimed
from eet.vit import load_bundle, save_bundle


@pytest.fixture(scope="module")
def other_model(tiny_model, tmp_path_factory) -> Path:
    model = load_bundle(tiny_model)
    model.head_hash.weight.data *= -1
    path = tmp_path_factory.mktemp("models") / "other"
    save_bundle(model, path)
    return path


@pytest.fixture
def images(photos, tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(photos.rglob("*.png"))[:10]:
        shutil.copy(path, folder / path.name)
    return folder


def encode(model: Path, images: Path, out: Path, **options) -> Gallery:
    return eet.encode(model, images, out=out, rows_per_part=4, threads=1, batch_size=4, **options)


def kill_at_part(monkeypatch, failing: int) -> None:
    """Writing part number `failing` stops as a kill does: nothing is cleaned up by this job."""

    def write(gallery, part, *rest, **options):
        if part == failing:
            raise KeyboardInterrupt
        write_part(gallery, part, *rest, **options)

    monkeypatch.setattr("eet.gallery.parts.write_part", write)


def codes(gallery: Gallery) -> dict[str, bytes]:
    table = gallery.table(["item_id", "code"])
    return dict(zip(table["item_id"].to_pylist(), table["code"].to_pylist(), strict=True))


def test_parts_of_another_model_are_not_taken_for_those_of_this_one(tiny_model, other_model, images, tmp_path):
    """H1 A: the manifest was removed."""
    wanted = codes(encode(tiny_model, images, tmp_path / "wanted"))
    encode(other_model, images, tmp_path / "gallery")
    (tmp_path / "gallery/manifest.json").unlink()
    gallery = encode(tiny_model, images, tmp_path / "gallery")
    assert codes(gallery) == wanted


def test_the_queries_of_a_search_are_no_place_for_a_gallery(tiny_model, images, tmp_path):
    """H4: the next search would replace it."""
    encode(tiny_model, images, tmp_path / "hits.queries")
    (tmp_path / "hits.queries" / QUERIES_MARKER).write_text("{}")
    with pytest.raises(InputError, match="holds the queries of a search"):
        encode(tiny_model, images, tmp_path / "hits.queries", mode="overwrite")


@pytest.mark.parametrize("kept", ["both", "only the parts of a longer gallery"])
def test_an_overwrite_that_was_killed_while_it_deleted_goes_on(tiny_model, other_model, images, tmp_path, monkeypatch, kept):
    """H1 B and M1: every state that a kill between two deletions leaves."""
    wanted = codes(encode(tiny_model, images, tmp_path / "wanted"))
    out = tmp_path / "gallery"
    for deletions in range(6):
        shutil.rmtree(out, ignore_errors=True)
        encode(other_model, images, out)
        removed = []

        def clear(location, removed=removed, deletions=deletions):
            files = [Path(location, name) for name in ("manifest.json", "plan.parquet", *(part_name(part) for part in range(3)))]
            for file in files[:deletions]:
                file.unlink()
                removed.append(file)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("eet.gallery.job.clear", clear)
            encode(tiny_model, images, out, mode="overwrite")
        assert len(removed) == min(deletions, 5)
        with pytest.raises(InputError, match="started differently"):
            encode(other_model, images, out)
        mode = "overwrite" if kept == "both" else "resume"
        gallery = encode(tiny_model, images, out, mode=mode)
        assert codes(gallery) == wanted
        assert sorted(os.listdir(out)) == ["manifest.json", "parts", "plan.parquet"]


def test_parts_of_a_longer_gallery_do_not_stay(tiny_model, images, tmp_path):
    """A reader that opens the folder of parts must not see them."""
    out = tmp_path / "gallery"
    encode(tiny_model, images, out)
    (out / "manifest.json").unlink()
    (few := tmp_path / "few").mkdir()
    shutil.copy(next(images.iterdir()), few)
    encode(tiny_model, few, out)
    assert os.listdir(out / "parts") == ["part-000000.parquet"]


def test_a_second_job_into_one_folder_is_refused(tiny_model, images, tmp_path):
    """H2, first form."""
    out = tmp_path / "gallery"
    with claimed(str(out)), pytest.raises(InputError, match=f"being written by another job .process {os.getpid()} on"):
        encode(tiny_model, images, out)
    assert len(codes(encode(tiny_model, images, out))) == 10


def test_a_job_that_was_taken_over_writes_no_part_and_no_manifest(tiny_model, other_model, images, tmp_path, monkeypatch):
    """H2, second form: a job stands still while another one overwrites its gallery, and goes on afterwards."""
    out, wanted = tmp_path / "gallery", codes(encode(other_model, images, tmp_path / "wanted"))

    def write(gallery, part, *rest, **options):
        if part == 1:
            monkeypatch.undo()
            assert codes(encode(other_model, images, out, mode="overwrite", take_over=True)) == wanted
        write_part(gallery, part, *rest, **options)

    monkeypatch.setattr("eet.gallery.parts.write_part", write)
    with pytest.raises(TakenOverError, match="This job has stopped"):
        encode(tiny_model, images, out)
    assert codes(open_gallery(str(out))) == wanted
    assert sorted(os.listdir(out)) == ["manifest.json", "parts", "plan.parquet"]


def test_a_straggler_part_is_noticed_by_every_reader_and_repaired(tiny_model, other_model, images, tmp_path):
    out, wanted = tmp_path / "gallery", codes(encode(tiny_model, images, tmp_path / "wanted"))
    encode(tiny_model, images, out)
    encode(other_model, images, tmp_path / "other")
    shutil.copy(tmp_path / "other" / part_name(1), out / part_name(1))
    gallery = open_gallery(str(out))
    for read in (gallery.codes, gallery.table, gallery.labels, lambda: gallery.rows(["x"]), lambda: list(gallery.parts())):
        with pytest.raises(DamagedError, match="part-000001.parquet was written by another job.*eet encode"):
            read()
    assert codes(encode(tiny_model, images, out)) == wanted


def test_another_plan_is_not_taken_for_the_plan_of_the_job(tiny_model, images, tmp_path, monkeypatch):
    out = tmp_path / "gallery"
    kill_at_part(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        encode(tiny_model, images, out)
    monkeypatch.undo()
    victim = next(images.iterdir())
    victim.rename(victim.with_name("zz.png"))
    encode(tiny_model, images, tmp_path / "other")
    shutil.copy(tmp_path / "other/plan.parquet", out / "plan.parquet")
    with pytest.raises(DamagedError, match="its plan is not the one of the job in begun.json"):
        encode(tiny_model, images, out)


def test_a_plan_that_was_replaced_is_not_read(tiny_model, images, tmp_path):
    out = tmp_path / "gallery"
    encode(tiny_model, images, out)
    planned = planned_parts(str(out))[0]._replace(digest="0" * 64)
    with pytest.raises(InputError, match="replaced by another plan"):
        eet.gallery.read_planned_part(str(out), planned)


def test_a_cut_part_is_encoded_again(tiny_model, images, tmp_path):
    """L7."""
    out = tmp_path / "gallery"
    wanted = codes(encode(tiny_model, images, out))
    data = (out / part_name(2)).read_bytes()
    (out / part_name(2)).write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedError, match="part-000002.parquet is not a complete Parquet file"):
        open_gallery(str(out)).codes()
    assert codes(encode(tiny_model, images, out)) == wanted
    (out / part_name(2)).write_bytes(b"")
    assert codes(encode(tiny_model, images, out, mode="append")) == wanted


def test_a_repaired_part_whose_image_is_gone_changes_the_counts(tiny_model, images, tmp_path):
    """M10."""
    out = tmp_path / "gallery"
    before = encode(tiny_model, images, out).manifest
    gone = sorted(images.iterdir())[5]
    gone.unlink()
    (out / part_name(1)).unlink()
    gallery = encode(tiny_model, images, out)
    assert (gallery.manifest.num_ok, gallery.manifest.errors) == (before.num_ok - 1, {"missing": 1})
    assert len(gallery.codes()[0]) == before.num_ok - 1 and gallery.errors()["item_id"].to_pylist() == [gone.name]


@pytest.mark.parametrize("mode", ["resume", "append", "overwrite"])
def test_a_folder_of_others_is_no_place_for_a_gallery(tiny_model, images, tmp_path, mode):
    """M9: the folder of a training, or of tables that happen to be called part-N."""
    out = tmp_path / "run"
    shutil.copytree(tiny_model, out)
    (out / "config.yaml").write_text("the training's")
    before = sorted(os.listdir(out))
    with pytest.raises(InputError, match="holds other files .config.yaml, model.json.*, but is no gallery"):
        encode(tiny_model, images, out, mode=mode)
    assert sorted(os.listdir(out)) == before and (out / "config.yaml").read_text() == "the training's"
    (tables := tmp_path / "tables").mkdir()
    (tables / "part-000000.parquet").write_bytes(b"mine")
    with pytest.raises(InputError, match="holds other files .part-000000.parquet"):
        encode(tiny_model, images, tables, mode=mode)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file: a gallery is a folder"):
        encode(tiny_model, images, tmp_path / "file", mode=mode)


def test_a_gallery_of_the_version_before_is_read_and_appended_to(tiny_model, images, tmp_path):
    """Parts of version 2 have no digest; those that are appended have one."""
    out, more = tmp_path / "gallery", tmp_path / "more"
    shutil.copytree(images, more)
    late = sorted(more.iterdir())[-3:]
    for path in late:
        (images / path.name).unlink()
    encode(tiny_model, images, out)
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["plans"]
    (out / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 2}))
    gallery = open_gallery(str(out))
    for part in range(2):
        write_part(str(out), part, _part(gallery, part), 2)
    gallery = encode(tiny_model, more, out, mode="append")
    assert [first for first, _ in gallery.manifest.plans] == [2] and gallery.manifest.schema_version == 2
    assert codes(gallery) == codes(encode(tiny_model, more, tmp_path / "wanted"))
    assert len(np.unique(gallery.codes()[1].to_pylist())) == 10


def _part(gallery: Gallery, part: int):
    return list(gallery.parts())[part].replace_schema_metadata(None)
