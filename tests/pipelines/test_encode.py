"""Encoding a folder into a gallery: on Ray and in this process, with bad pictures, cut off and gone on with."""

import dataclasses
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from eet.datasets import synthetic
from eet.gallery import Gallery, open_gallery, part_name
from eet.vit import load_bundle, read_bundle_record, save_bundle
from pipelines import encode
from pipelines.options import DataOptions

pytestmark = pytest.mark.timeout(180)

BAD = {"b/cut.png": "truncated", "empty.jpg": "empty", "z/words.png": "not-an-image"}


@pytest.fixture(scope="module")
def folder(tiny_birds, tmp_path_factory) -> Path:
    """20 good pictures, 3 bad ones, and 2 files that are none."""
    root = tmp_path_factory.mktemp("photos")
    table = synthetic.load(str(tiny_birds))
    for number in range(20):
        target = root / "abcz"[number % 4] / f"{number:02d}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(table.location(2 * number), target)
    data = (root / "a" / "00.png").read_bytes()
    (root / "b" / "cut.png").write_bytes(data[: len(data) // 2])
    (root / "empty.jpg").write_bytes(b"")
    (root / "z" / "words.png").write_text("these are words")
    (root / "notes.txt").write_text("no picture")
    (root / "z" / "list.csv").write_text("a,b")
    return root


def config_of(out: Path, model: Path, folder: Path | None, **changes) -> encode.EncodeConfig:
    options = {"rows_per_part": 5, "batch_size": 4, "threads": 2, "engine": "local", "tokens": True, "max_error_ratio": 0.2, **changes}
    return encode.EncodeConfig(model=str(model), out=str(out), images=None if folder is None else str(folder), **options)


@pytest.fixture(scope="module")
def local(tiny_model, folder, tmp_path_factory) -> Gallery:
    out = tmp_path_factory.mktemp("galleries") / "local"
    encode.run(config_of(out, tiny_model, folder))
    return open_gallery(str(out))


def test_bad_pictures_are_rows_with_reasons_among_the_others(local, folder):
    table = local.table()
    expected = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))
    assert table["item_id"].to_pylist() == expected and len(expected) == 23
    statuses = dict(zip(expected, table["status"].to_pylist(), strict=True))
    assert {item: status for item, status in statuses.items() if status != "ok"} == BAD
    assert local.errors()["item_id"].to_pylist() == sorted(BAD)
    for name in ("code", "tokens"):
        absent = [item for item, value in zip(expected, table[name].to_pylist(), strict=True) if value is None]
        assert absent == sorted(BAD)


def test_the_manifest_counts(local, tiny_model):
    manifest, record = local.manifest, read_bundle_record(tiny_model)
    assert (manifest.num_rows, manifest.num_ok, manifest.num_parts, manifest.rows_per_part) == (23, 20, 5, 5)
    assert manifest.errors == {"empty": 1, "not-an-image": 1, "truncated": 1}
    assert (manifest.model_digest, manifest.preprocessing_digest) == (record.digest, record.preprocessing_digest)
    assert manifest.token_shape == (2, 32) and manifest.label_names is None
    assert not Path(local.path, "begun.json").exists()
    assert Path(local.path, "config.yaml").is_file()


def test_a_bad_picture_changes_no_neighbour(local, tiny_model, folder, tmp_path):
    mended = tmp_path / "photos"
    shutil.copytree(folder, mended)
    for name in BAD:
        shutil.copy(folder / "a" / "04.png", mended / name)
    encode.run(config_of(tmp_path / "gallery", tiny_model, mended))
    with_good = open_gallery(str(tmp_path / "gallery")).table().drop(["uri"])
    before = local.table().drop(["uri"])
    good = [row for row, item in enumerate(before["item_id"].to_pylist()) if item not in BAD]
    assert with_good.take(good).equals(before.take(good))


def test_ray_gives_the_same_parts(ray_session, local, tiny_model, folder, tmp_path, capsys):
    result = encode.run(config_of(tmp_path / "gallery", tiny_model, folder, engine="ray", workers=2))
    gallery = open_gallery(str(tmp_path / "gallery"))
    assert gallery.table().equals(local.table())
    assert gallery.manifest == local.manifest == result.manifest
    for part in range(5):
        assert Path(gallery.path, part_name(part)).read_bytes() == Path(local.path, part_name(part)).read_bytes()
    told = capsys.readouterr().out
    assert "23 images" in told and "2 other files left" in told
    assert "3 images failed" in told and "1 truncated" in told


def test_a_job_that_was_cut_off_goes_on_where_it_stopped(local, tiny_model, folder, tmp_path, monkeypatch, capsys):
    config = config_of(tmp_path / "gallery", tiny_model, folder)
    write, written = encode.write_part, []

    def cut(gallery: str, part: int, table: pa.Table) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part)
        write(gallery, part, table)

    monkeypatch.setattr(encode, "write_part", cut)
    with pytest.raises(KeyboardInterrupt):
        encode.run(config)
    with pytest.raises(ValueError, match="not a finished gallery"):
        open_gallery(config.out)
    begun = Path(config.out, "config.yaml").read_text()

    for changes in ({"tokens": False}, {"rows_per_part": 6}):
        with pytest.raises(ValueError, match="begun differently"):
            encode.run(dataclasses.replace(config, **changes))
    assert Path(config.out, "config.yaml").read_text() == begun, "a refused job must leave the config of the one that began"

    again: list[int] = []
    monkeypatch.setattr(encode, "write_part", lambda gallery, part, table: (again.append(part), write(gallery, part, table)))
    capsys.readouterr()
    encode.run(config)
    assert again == [2, 3, 4] and written == [0, 1]
    assert "2 of 5 parts are there already; 3 to encode" in capsys.readouterr().out
    resumed = open_gallery(config.out)
    assert resumed.table().equals(local.table()) and resumed.manifest == local.manifest


def test_a_gallery_begun_with_another_model_is_not_gone_on_with(tiny_model, folder, tmp_path, monkeypatch):
    config = config_of(tmp_path / "gallery", tiny_model, folder)
    write = encode.write_part
    monkeypatch.setattr(encode, "write_part", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        encode.run(config)
    monkeypatch.setattr(encode, "write_part", write)
    other = load_bundle(tiny_model)
    other.head_hash.bias.data += 1
    save_bundle(other, tmp_path / "other")
    with pytest.raises(ValueError, match="model_digest"):
        encode.run(dataclasses.replace(config, model=str(tmp_path / "other")))


def test_a_finished_gallery_is_not_written_again(local, tiny_model, folder):
    before = Path(local.path, part_name(0)).stat().st_mtime_ns
    with pytest.raises(ValueError, match="finished gallery already"):
        encode.run(config_of(Path(local.path), tiny_model, folder))
    assert Path(local.path, part_name(0)).stat().st_mtime_ns == before


def test_too_many_bad_pictures_fail_the_job_and_keep_the_rows(tiny_model, folder, tmp_path):
    with pytest.raises(ValueError, match="3 of 23 images failed .*--max-error-ratio 0.1; the gallery is kept"):
        encode.run(config_of(tmp_path / "gallery", tiny_model, folder, max_error_ratio=0.1))
    assert open_gallery(str(tmp_path / "gallery")).errors().num_rows == 3


def test_a_dry_run_starts_and_writes_nothing(tiny_model, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encode, "connected", None)
    encode.run(config_of(tmp_path / "gallery", tiny_model, folder, engine="ray", dry_run=True))
    told = capsys.readouterr().out
    assert "23 images" in told and "bytes a row" in told and "nothing was started" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("split", "number"), [("train", 32), ("test", 16), ("all", 48)])
def test_a_datasets_split_is_encoded_with_its_labels(tiny_model, tiny_birds, tmp_path, split, number):
    data = DataOptions(name="synthetic", root=str(tiny_birds))
    encode.run(config_of(tmp_path / "gallery", tiny_model, None, data=data, split=split, rows_per_part=20, tokens=False))
    gallery = open_gallery(str(tmp_path / "gallery"))
    table = synthetic.load(str(tiny_birds)).select(split)
    label_of = dict(zip(table.paths, table.labels.tolist(), strict=True))
    rows = gallery.table(["item_id", "label", "uri"]).to_pylist()
    assert len(rows) == number and {row["item_id"]: row["label"] for row in rows} == label_of
    assert all(Path(row["uri"]) == tiny_birds / row["item_id"] for row in rows)
    assert gallery.manifest.label_names == table.label_names and gallery.manifest.token_shape is None


def test_one_image_is_a_gallery_of_one(tiny_model, folder, tmp_path):
    encode.run(config_of(tmp_path / "gallery", tiny_model, folder / "a" / "00.png"))
    assert open_gallery(str(tmp_path / "gallery")).table()["item_id"].to_pylist() == ["00.png"]


def test_more_workers_than_the_cluster_has_are_refused(ray_session, tiny_model, folder, tmp_path):
    with pytest.raises(ValueError, match="do not fit the cluster"):
        encode.run(config_of(tmp_path / "gallery", tiny_model, folder, engine="ray", workers=9, rows_per_part=1))


def test_begun_says_what_it_is_made_with(tiny_model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "_encode_parts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        encode.run(config_of(tmp_path / "gallery", tiny_model, folder))
    begun = json.loads((tmp_path / "gallery" / "begun.json").read_text())
    assert begun["num_rows"] == 23 and begun["rows_per_part"] == 5 and "tokens" in begun["columns"]
