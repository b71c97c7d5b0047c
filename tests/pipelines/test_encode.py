"""Encoding a folder into a gallery: on Ray and in this process, with bad images, cut off and gone on with."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import eet
from eet.datasets import synthetic
from eet.datasets.listing import Columns
from eet.errors import InputError
from eet.gallery import Gallery, encoding, open_gallery, part_name, write_part
from eet.vit import PruningSchedule, build_student, load_bundle, read_bundle_record, save_bundle, weights_digest
from pipelines import encode, search
from pipelines.job.cluster import connected
from pipelines.job.options import DataOptions

pytestmark = pytest.mark.timeout(180)

BAD = {"b/cut.png": "truncated", "empty.jpg": "empty", "z/words.png": "not-an-image"}


@pytest.fixture(scope="module")
def folder(tiny_birds, tmp_path_factory) -> Path:
    """20 good images, 3 bad ones, and 2 files that are none."""
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
    (root / "notes.txt").write_text("no image")
    (root / "z" / "list.csv").write_text("a,b")
    return root


def config_of(out: Path, model: Path, folder: Path | None, **changes) -> encode.EncodeConfig:
    options = {"rows_per_part": 5, "batch_size": 4, "threads": 2, "engine": "local", "tokens": True, "max_error_ratio": 0.2}
    images = None if folder is None else str(folder)
    return encode.EncodeConfig(**{"model": str(model), "out": str(out), "images": images, **options, **changes})


@pytest.fixture(scope="module")
def local(tiny_model, folder, tmp_path_factory) -> Gallery:
    out = tmp_path_factory.mktemp("galleries") / "local"
    encode.run(config_of(out, tiny_model, folder))
    return open_gallery(str(out))


def test_bad_images_are_rows_with_reasons_among_the_others(local, folder):
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


def test_a_bad_image_changes_no_neighbour(local, tiny_model, folder, tmp_path):
    mended = tmp_path / "photos"
    shutil.copytree(folder, mended)
    for name in BAD:
        shutil.copy(folder / "a" / "04.png", mended / name)
    encode.run(config_of(tmp_path / "gallery", tiny_model, mended))
    with_good = open_gallery(str(tmp_path / "gallery")).table().drop(["uri"])
    before = local.table().drop(["uri"])
    good = [row for row, item in enumerate(before["item_id"].to_pylist()) if item not in BAD]
    assert with_good.take(good).equals(before.take(good))


def test_ray_gives_the_same_parts(ray_session, local, tiny_model, folder, tmp_path, capfd):
    result = encode.run(config_of(tmp_path / "gallery", tiny_model, folder, engine="ray", workers=2))
    gallery = open_gallery(str(tmp_path / "gallery"))
    assert gallery.table().equals(local.table())
    assert gallery.manifest == local.manifest == result.manifest
    for part in range(5):
        assert Path(gallery.path, part_name(part)).read_bytes() == Path(local.path, part_name(part)).read_bytes()
    printed, errors = capfd.readouterr()
    assert "23 images" in printed and "2 other files ignored" in printed
    assert "3 images failed" in printed and "1 truncated" in printed
    assert "max_restarts" not in errors  # Ray's line about the actors of Ray Data


def cut_after(monkeypatch, parts: int) -> list[int]:
    """Writing stops as Ctrl-C would when `parts` are written; returns the list of those that are."""
    written: list[int] = []

    def cut(gallery: str, part: int, table: pa.Table, version: int, **options: Any) -> None:
        if len(written) == parts:
            raise KeyboardInterrupt
        written.append(part)
        write_part(gallery, part, table, version, **options)

    monkeypatch.setattr("eet.gallery.parts.write_part", cut)
    return written


def test_a_job_that_was_cut_off_goes_on_where_it_stopped(local, tiny_model, folder, tmp_path, monkeypatch, capsys):
    config = config_of(tmp_path / "gallery", tiny_model, folder)
    written = cut_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        encode.run(config)
    with pytest.raises(ValueError, match="not a finished gallery"):
        open_gallery(config.out)
    first_config = Path(config.out, "config.yaml").read_text()

    for changes in ({"tokens": False}, {"rows_per_part": 6}, {"images": str(folder / "a")}, {"precision": "bf16"}, {"jpegs_on": "gpu"}):
        with pytest.raises(ValueError, match="started differently"):
            encode.run(dataclasses.replace(config, **changes))
    assert Path(config.out, "config.yaml").read_text() == first_config, "a refused job must leave the config of the first one"

    Path(config.out, "parts", f".part-000003.parquet.{'0' * 32}.tmp").write_bytes(b"of a writer that was killed")
    again = cut_after(monkeypatch, 99)
    capsys.readouterr()
    encode.run(config)
    assert again == [2, 3, 4] and written == [0, 1]
    assert "2 of 5 parts are there already; 3 to encode" in capsys.readouterr().out
    resumed = open_gallery(config.out)
    assert resumed.table().equals(local.table()) and resumed.manifest == local.manifest
    assert {path.name for path in Path(config.out).iterdir()} == {path.name for path in Path(local.path).iterdir()}


@pytest.mark.parametrize("changes", [{}, {"dry_run": True}, {"engine": "ray"}])
def test_jpegs_are_not_decoded_on_gpus_that_are_not_there(tiny_model, folder, tmp_path, monkeypatch, changes):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="--jpegs_on gpu: this machine has no GPU that torch sees; use --jpegs_on cpu"):
        encode.run(config_of(tmp_path / "gallery", tiny_model, folder, jpegs_on="gpu", **changes))
    assert not (tmp_path / "gallery").exists(), "an impossible job must not start"


def test_jpegs_are_not_decoded_on_gpus_that_a_cluster_lacks(ray_session, tiny_model, folder, tmp_path, monkeypatch):
    resources = connected("local")
    monkeypatch.setattr(encode, "check_address", lambda address: None)
    monkeypatch.setattr("pipelines.actors.encoding.connected", lambda address: resources)
    monkeypatch.setattr("pipelines.job.cluster.ClusterResources.gpus", 0)
    config = config_of(tmp_path / "gallery", tiny_model, folder, jpegs_on="gpu", engine="ray", address="head:6379")
    with pytest.raises(ValueError, match="--jpegs_on gpu: the Ray cluster has no GPU; use --jpegs_on cpu"):
        encode.run(config)
    assert not (tmp_path / "gallery").exists()


def test_torchcodec_that_is_missing_is_said_before_anything_is_begun(tiny_model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ValueError, match=r"--jpegs_on gpu: .*needs TorchCodec.*pip install -e '\.\[nvjpeg\]'.*use --jpegs_on cpu"):
        encode.run(config_of(tmp_path / "gallery", tiny_model, folder, jpegs_on="gpu"))
    assert not (tmp_path / "gallery").exists()


def test_a_job_from_before_the_choice_of_decoder_continues(local, tiny_model, folder, tmp_path, monkeypatch):
    config = config_of(tmp_path / "gallery", tiny_model, folder)
    cut_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        encode.run(config)
    job = Path(config.out, "begun.json")
    values = json.loads(job.read_text())
    assert values["made_with"].pop("jpegs_on") == "cpu"
    job.write_text(json.dumps(values))
    assert cut_after(monkeypatch, 99) == []
    encode.run(config)
    assert open_gallery(config.out).manifest == local.manifest


def test_a_gallery_started_with_another_model_is_not_continued(tiny_model, folder, tmp_path, monkeypatch):
    config = config_of(tmp_path / "gallery", tiny_model, folder)
    cut_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        encode.run(config)
    monkeypatch.undo()
    other = load_bundle(tiny_model)
    other.head_hash.bias.data += 1
    save_bundle(other, tmp_path / "other")
    digests = [read_bundle_record(model).digest for model in (tiny_model, tmp_path / "other")]
    with pytest.raises(ValueError, match=f"model_digest: {digests[0]} then, {digests[1]} now"):
        encode.run(dataclasses.replace(config, model=str(tmp_path / "other")))
    encode.run(config)
    for mode in ("resume", "append"):  # neither when it is finished
        with pytest.raises(ValueError, match=f"made differently .*model_digest: {digests[0]} then, {digests[1]} now"):
            encode.run(dataclasses.replace(config, model=str(tmp_path / "other"), mode=mode))


def test_parts_of_another_model_are_encoded_again_on_ray(ray_session, tiny_model, local, folder, tmp_path):
    """H1: the parts of another model, without its manifest."""
    other = load_bundle(tiny_model)
    other.head_hash.weight.data *= -1
    save_bundle(other, tmp_path / "other")
    out = tmp_path / "gallery"
    encode.run(config_of(out, tmp_path / "other", folder))
    (out / "manifest.json").unlink()
    encode.run(config_of(out, tiny_model, folder, engine="ray"))
    assert open_gallery(str(out)).table(["item_id", "code"]).equals(local.table(["item_id", "code"]))


def test_labels_of_another_column_are_not_nothing_to_do(tiny_model, folder, tmp_path):
    """M17: both columns have the same names. Appended images are compared too."""
    files = sorted(str(path.relative_to(folder)) for path in (folder / "a").iterdir())
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path,one,other", *(f"{path},{row % 2},{1 - row % 2}" for row, path in enumerate(files))]))

    def encoded(column: str, **changes) -> None:
        where = {"images": str(table), "images_root": str(folder), "columns": Columns(label=column)}
        encode.run(config_of(tmp_path / "gallery", tiny_model, None, **where, **changes))

    encoded("one")
    encoded("one")
    with pytest.raises(InputError, match="gives 'a/00.png' another label than .* mode overwrite"):
        encoded("other")
    table.write_text(table.read_text() + "\nc/02.png,0,1")
    encoded("one", mode="append")
    encoded("one")
    with pytest.raises(InputError, match="another label"):
        encoded("other")


def test_a_finished_gallery_has_nothing_to_do(local, tiny_model, folder, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in Path(local.path).iterdir()}
    assert encode.run(config_of(Path(local.path), tiny_model, folder)).manifest == local.manifest
    assert "is finished: nothing to do" in capsys.readouterr().out
    with pytest.raises(ValueError, match="use mode append to add"):
        encode.run(config_of(Path(local.path), tiny_model, folder / "a"))
    assert {path.name: path.stat().st_mtime_ns for path in Path(local.path).iterdir()} == before


@pytest.fixture
def grown(folder, tmp_path) -> Path:
    """The folder before and after six more images came."""
    root = tmp_path / "photos"
    shutil.copytree(folder, root)
    return root


def add_images(root: Path) -> set[str]:
    names = {f"{place}/new{number}.png" for number, place in enumerate(("a", "b", "c", "z", "a", "0"))}
    for number, name in enumerate(sorted(names)):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / "a" / f"{4 * (number % 4):02d}.png", root / name)
    return names


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_append_encodes_what_is_new_and_nothing_else(ray_session, tiny_model, grown, tmp_path, monkeypatch, capsys, engine):
    config = config_of(tmp_path / "gallery", tiny_model, grown, engine=engine, workers=1 if engine == "ray" else None)
    encode.run(dataclasses.replace(config, engine="local", workers=None))
    before = {path.name: path.read_bytes() for path in Path(config.out).glob("parts/part-*")}
    encode.run(dataclasses.replace(config, mode="append"))
    assert "nothing to append: all 23 images" in capsys.readouterr().out
    new = add_images(grown)
    encode.run(config)  # resuming a finished gallery does not look for new ones
    assert open_gallery(config.out).manifest.num_rows == 23

    encode.run(dataclasses.replace(config, mode="append"))
    assert "encode: 6 images" in capsys.readouterr().out
    gallery = open_gallery(config.out)
    assert all(Path(config.out, "parts", name).read_bytes() == data for name, data in before.items())
    ids = gallery.table(["item_id"])["item_id"].to_pylist()
    assert len(ids) == 29 and set(ids[23:]) == new and ids[23:] == sorted(new)
    assert (gallery.manifest.num_rows, gallery.manifest.num_ok, gallery.manifest.num_parts) == (29, 26, 7)
    assert gallery.manifest.errors == {"empty": 1, "not-an-image": 1, "truncated": 1}
    whole = config_of(tmp_path / "whole", tiny_model, grown)
    encode.run(whole)
    codes = {row["item_id"]: row["code"] for row in open_gallery(whole.out).table(["item_id", "code"]).to_pylist()}
    assert {row["item_id"]: row["code"] for row in gallery.table(["item_id", "code"]).to_pylist()} == codes


def test_an_append_that_was_cut_off_leaves_the_gallery_readable_and_goes_on(tiny_model, grown, tmp_path, monkeypatch):
    config = config_of(tmp_path / "gallery", tiny_model, grown)
    encode.run(config)
    before = open_gallery(config.out).table()
    add_images(grown)
    append = dataclasses.replace(config, mode="append", rows_per_part=2048)  # parts are cut as those that are there
    written = cut_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        encode.run(append)
    assert written == [5]
    assert open_gallery(config.out).table().equals(before)
    monkeypatch.undo()
    encode.run(append)
    gallery = open_gallery(config.out)
    assert gallery.manifest.num_rows == 29 == len(set(gallery.table(["item_id"])["item_id"].to_pylist()))
    encode.run(append)
    assert open_gallery(config.out).manifest == gallery.manifest


def test_a_manifest_that_was_written_before_the_kill_is_written_again_the_same(local, tiny_model, folder, tmp_path, monkeypatch):
    config = config_of(tmp_path / "gallery", tiny_model, folder)
    monkeypatch.setattr(encoding, "remove", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        encode.run(config)
    monkeypatch.undo()
    assert Path(config.out, "begun.json").exists() and Path(config.out, "manifest.json").exists()
    encode.run(config)
    assert open_gallery(config.out).manifest == local.manifest and not Path(config.out, "begun.json").exists()


def test_overwrite_replaces_a_gallery_when_the_new_one_is_planned_and_goes_on_itself(local, tiny_model, folder, tmp_path, monkeypatch):
    config = config_of(tmp_path / "gallery", tiny_model, folder)
    encode.run(config)
    (tmp_path / "gallery" / "notes.md").write_text("mine")
    replace = dataclasses.replace(config, images=str(folder / "z"), mode="overwrite", rows_per_part=2)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        encode.run(dataclasses.replace(replace, images=str(tmp_path / "none")))
    (tmp_path / "twice.csv").write_text(f"path,id\n{folder}/a/00.png,x\n{folder}/a/04.png,x\n")
    with pytest.raises(ValueError, match="the id of another item: 'x'"):
        encode.run(dataclasses.replace(replace, images=str(tmp_path / "twice.csv"), columns=Columns(item_id="id")))
    assert {path.name for path in tmp_path.iterdir()} == {"gallery", "none", "twice.csv"}
    assert open_gallery(config.out).table().equals(local.table())
    written = cut_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        encode.run(replace)
    with pytest.raises(ValueError, match="not a finished gallery"):
        open_gallery(config.out)
    more = cut_after(monkeypatch, 99)
    encode.run(replace)
    assert written == [0] and more == [1, 2]
    ids = open_gallery(config.out).table(["item_id"])["item_id"].to_pylist()
    assert ids == sorted(path.name for path in (folder / "z").iterdir() if path.suffix == ".png")
    assert (tmp_path / "gallery" / "notes.md").read_text() == "mine"


def test_appended_labels_are_numbered_by_name(tiny_model, tiny_birds, tmp_path):
    table = synthetic.load(str(tiny_birds)).select("test")
    rows = [(table.location(row), table.label_names[label]) for row, label in enumerate(table.labels.tolist())]

    def write(name: str, some) -> str:
        lines = [f"{name}-{number}.png,{path},{label}" for number, (path, label) in enumerate(some)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,file,species", *lines]) + "\n")
        return str(tmp_path / f"{name}.csv")

    columns = Columns(path="file", item_id="id", label="species")
    first = write("first", [row for row in rows if row[1] in table.label_names[1:3]])
    second = write("second", rows)
    config = config_of(tmp_path / "gallery", tiny_model, None, images=first, columns=columns)
    encode.run(config)
    assert open_gallery(config.out).manifest.label_names == table.label_names[1:3]
    encode.run(dataclasses.replace(config, images=second, mode="append"))
    gallery = open_gallery(config.out)
    assert gallery.manifest.label_names == (*table.label_names[1:3], table.label_names[0], table.label_names[3])
    name_of = dict(rows)
    for row in gallery.table(["uri", "label"]).to_pylist():
        assert gallery.manifest.label_names[row["label"]] == name_of[row["uri"]]
    assert gallery.manifest.inputs == (first, second)


def test_too_many_bad_images_fail_the_job_and_keep_the_rows(tiny_model, folder, tmp_path):
    with pytest.raises(ValueError, match="3 of 23 images failed .*--max-error-ratio 0.1; the gallery is kept"):
        encode.run(config_of(tmp_path / "gallery", tiny_model, folder, max_error_ratio=0.1))
    assert open_gallery(str(tmp_path / "gallery")).errors().num_rows == 3


def test_a_dry_run_starts_and_writes_nothing(tiny_model, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipelines.actors.encoding.connected", None)
    encode.run(config_of(tmp_path / "gallery", tiny_model, folder, engine="ray", dry_run=True))
    printed = capsys.readouterr().out
    assert "23 images" in printed and "bytes a row" in printed and "nothing was started" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("has_bf16", "changes", "offered"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"precision": "fp32"}, False),
        (True, {"precision": "bf16"}, False),
        (True, {"images": None}, False),
    ],
)
def test_bf16_is_offered_where_the_cpu_computes_in_it(tiny_model, folder, tmp_path, monkeypatch, capsys, has_bf16, changes, offered):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": has_bf16}, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(encode, "BF16_FROM", 23 if changes != {"images": None} else 24)
    config = config_of(tmp_path / "gallery", tiny_model, folder, **{key: value for key, value in changes.items() if key != "images"})
    encode.run(config)
    assert ("--precision bf16 is faster" in capsys.readouterr().out) == offered
    part = tmp_path / "gallery" / part_name(0)
    part.unlink()
    encode.run(config)  # its precision is settled
    assert part.exists() and "--precision bf16" not in capsys.readouterr().out


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


def test_a_part_that_somebody_took_away_is_encoded_again(local, tiny_model, folder, tmp_path, capsys):
    config = config_of(tmp_path / "gallery", tiny_model, folder)
    encode.run(config)
    Path(config.out, part_name(3)).unlink()
    with pytest.raises(ValueError, match="lacks 1 of its 5 parts"):
        open_gallery(config.out)
    encode.run(config)
    assert "1 of 5 parts are missing" in capsys.readouterr().out
    assert open_gallery(config.out).table().equals(local.table()) and open_gallery(config.out).manifest == local.manifest


def test_an_overwrite_that_was_cut_off_can_be_overwritten_by_another(tiny_model, folder, tmp_path, monkeypatch):
    config = config_of(tmp_path / "gallery", tiny_model, folder, mode="overwrite")
    cut_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        encode.run(config)
    monkeypatch.undo()
    encode.run(dataclasses.replace(config, images=str(folder / "a")))
    assert open_gallery(config.out).manifest.inputs == (str(folder / "a"),)


def test_files_that_are_no_gallerys_are_never_cleared_away(tiny_model, folder, tmp_path):
    out = tmp_path / "tables"
    out.mkdir()
    (out / "part-000000.parquet").write_bytes(b"somebody's")
    (out / "planets.parquet").write_bytes(b"somebody's")
    for mode in ("resume", "overwrite"):
        with pytest.raises(ValueError, match="but is no gallery"):
            encode.run(config_of(out, tiny_model, folder, mode=mode))
    assert {path.name for path in out.iterdir()} == {"part-000000.parquet", "planets.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == {"tables"}
    for images in (out, f"{out}/part-*.parquet"):
        with pytest.raises(ValueError, match="give the gallery its own folder"):
            encode.run(config_of(out, tiny_model, None, images=str(images), mode="overwrite"))


def test_labels_with_names_and_without_are_not_mixed(tiny_model, tiny_birds, tmp_path):
    import tarfile

    table = synthetic.load(str(tiny_birds)).select("test")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for row in range(3):
            (tmp_path / f"{row}.cls").write_text(str(row))
            tar.add(table.location(row), f"{row}.png")
            tar.add(tmp_path / f"{row}.cls", f"{row}.cls")
    (tmp_path / "named.csv").write_text(f"path,label\n{table.location(5)},wren\n")
    for first, second in (("shard.tar", "named.csv"), ("named.csv", "shard.tar")):
        config = config_of(tmp_path / f"gallery-{first}", tiny_model, tmp_path / first)
        encode.run(config)
        before = open_gallery(config.out).table()
        with pytest.raises(ValueError, match="labels without names"):
            encode.run(dataclasses.replace(config, images=str(tmp_path / second), mode="append"))
        assert open_gallery(config.out).table().equals(before)


@pytest.fixture(scope="module")
def joint_model(tmp_path_factory) -> Path:
    """An untrained student with joint codes of 8 bits."""
    student = build_student(
        "vit_tiny_patch16_224", num_classes=3, num_bits=8, schedule=PruningSchedule((2,), (0.5,)), image_size=48, weights="none",
        backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}, hash_input="joint", seed=3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("joint") / "bundle"
    save_bundle(student, folder, label_names=("a", "b", "c"))
    return folder


def test_a_gallery_is_encoded_by_a_model_that_was_adapted_to_it(joint_model, tiny_model, folder, tmp_path, capsys):
    config = config_of(tmp_path / "gallery", joint_model, folder, adapt=str(tmp_path / "adapted"), adapt_images=20, seed=1)
    encode.run(dataclasses.replace(config, dry_run=True))
    assert "would be adapted to 20 of the images" in capsys.readouterr().out and not (tmp_path / "adapted").exists()
    encode.run(config)
    adapted, before = read_bundle_record(tmp_path / "adapted"), read_bundle_record(joint_model)
    assert adapted.digest != before.digest and adapted.label_names == ("a", "b", "c")
    gallery = open_gallery(config.out)
    assert gallery.manifest.model_digest == adapted.digest

    encode.run(dataclasses.replace(config, mode="append"))  # the same command later: the same model
    assert "nothing to append" in capsys.readouterr().out
    queries = {"gallery": config.out, "queries": str(folder / "a" / "00.png"), "k": 3, "out": str(tmp_path / "hits.parquet")}
    with pytest.raises(ValueError, match="encode both with one model"):
        search.run(search.SearchConfig(**queries, model=str(joint_model)))
    assert search.run(search.SearchConfig(**queries, model=config.adapt))["distance"][0].as_py() == 0

    with pytest.raises(ValueError, match="holds a model that was not adapted from"):
        encode.run(dataclasses.replace(config, out=str(tmp_path / "other"), model=str(tiny_model)))
    with pytest.raises(ValueError, match="made of logits: only joint codes"):
        encode.run(dataclasses.replace(config, out=str(tmp_path / "other"), model=str(tiny_model), adapt=str(tmp_path / "new")))


def test_the_python_api_adapts_as_the_job_does(joint_model, folder, tmp_path):
    config = config_of(tmp_path / "gallery", joint_model, folder, adapt=str(tmp_path / "adapted"), adapt_images=20, seed=1)
    encode.run(config)
    adapted = eet.adapt(joint_model, folder, sample=20, seed=1)
    assert weights_digest(adapted) == read_bundle_record(config.adapt).digest


def test_places_are_stored_with_the_items_of_their_role(folder, tiny_model, tmp_path):
    paths = ["a/00.png", "b/01.png", "c/02.png", "empty.jpg"]
    rows = [f"{path},{role},{row},{row + 0.5}" for row, (path, role) in enumerate(zip(paths, ["query", *["database"] * 3], strict=True))]
    rows[2] = "c/02.png,database,,"
    (tmp_path / "places.csv").write_text("\n".join(["path,role,easting,northing", *rows]))
    data = DataOptions(name="table", root=str(folder), table=str(tmp_path / "places.csv"))
    config = config_of(tmp_path / "db", tiny_model, None, data=data, role="database", max_error_ratio=1.0)
    encode.run(config)
    gallery = open_gallery(config.out)
    assert gallery.manifest.positions and gallery.manifest.inputs[0].endswith("split all, role database")
    assert gallery.table(["item_id", "easting", "northing", "zone", "condition", "status"]).to_pylist() == [
        {"item_id": "b/01.png", "easting": 1, "northing": 1.5, "zone": "", "condition": "", "status": "ok"},
        {"item_id": "c/02.png", "easting": None, "northing": None, "zone": "", "condition": "", "status": "ok"},
        {"item_id": "empty.jpg", "easting": 3, "northing": 3.5, "zone": "", "condition": "", "status": "empty"},
    ]
    encode.run(dataclasses.replace(config, role="query", mode="append"))
    assert open_gallery(config.out).table(["easting"])["easting"].to_pylist() == [1, None, 3, 0]
    with pytest.raises(InputError, match="positions: True then, False now"):
        encode.run(config_of(config.out, tiny_model, folder / "a", mode="append"))
    assert config_of(tmp_path / "x", tiny_model, folder, role="query").problems() == ["--role needs --data.*: --images have no roles"]
