"""Encoding from S3 to S3 through the ordinary client, against a server on this machine."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import yaml

from eet.datasets import synthetic
from eet.gallery import open_gallery, read_hits, write_part
from eet.storage import join_location, read_bytes, read_text, resolve
from pipelines import encode, evaluate, search
from pipelines.job.options import DataOptions

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """HOST:PORT of an S3 server."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    thread = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    thread.start()
    host, port = thread.get_host_and_port()
    yield f"{host}:{port}"
    thread.stop()


@pytest.fixture(scope="module")
def bucket(server) -> str:
    """A bucket's address. The keys are in the environment, see tests/conftest.py."""
    pafs.S3FileSystem(endpoint_override=server, scheme="http", region="us-east-1", allow_bucket_creation=True).create_dir("birds")
    return f"s3://birds?endpoint_override={server}&scheme=http&region=us-east-1"


@pytest.fixture(scope="module")
def photos(bucket, tiny_birds, tmp_path_factory) -> tuple[str, Path]:
    """The same 11 images in the bucket and on disk, one of them cut off, and a file that is none."""
    local = tmp_path_factory.mktemp("photos")
    table = synthetic.load(str(tiny_birds))
    for number in range(11):
        target = local / "ab"[number % 2] / f"{number:02d}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(table.location(3 * number), target)
    (local / "a" / "04.png").write_bytes((local / "a" / "04.png").read_bytes()[:300])
    (local / "notes.txt").write_text("no image")
    remote = join_location(bucket, "photos")
    filesystem, root = resolve(remote)
    pafs.copy_files(str(local), root, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=filesystem)
    return remote, local


def config_of(model: Path, images: str, out: str, **changes) -> encode.EncodeConfig:
    options = {"rows_per_part": 4, "batch_size": 4, "threads": 2, "engine": "local", "tokens": True, "max_error_ratio": 0.2}
    return encode.EncodeConfig(model=str(model), images=images, out=out, **{**options, **changes})


@pytest.fixture(scope="module")
def local(photos, tiny_model, tmp_path_factory) -> pa.Table:
    """What the images on disk are encoded to."""
    out = tmp_path_factory.mktemp("galleries") / "local"
    encode.run(config_of(tiny_model, str(photos[1]), str(out)))
    return open_gallery(str(out)).table().drop(["uri"])


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_images_and_gallery_in_a_bucket(ray_session, bucket, photos, local, tiny_model, tmp_path, engine, capsys):
    out = join_location(bucket, f"galleries/{engine}")
    config = config_of(tiny_model, photos[0], out, engine=engine, workers=2 if engine == "ray" else None)
    encode.run(config)
    printed = capsys.readouterr().out
    assert "11 images" in printed and "1 other files ignored" in printed and "1 truncated" in printed
    gallery = open_gallery(out)
    assert gallery.table().drop(["uri"]).equals(local)
    assert gallery.rows(["b/05.png"])["label"].to_pylist() == [None]
    encode.run(config)
    assert "nothing to do" in capsys.readouterr().out

    hits = join_location(bucket, f"hits/{engine}.parquet")
    found = search.run(search.SearchConfig(gallery=out, queries=str(photos[1] / "a"), model=str(tiny_model), k=3, out=hits))
    assert read_hits(hits).num_rows == len(found) == 3 * 5
    nearest = {row["query_id"]: row["item_id"] for row in found.to_pylist() if row["rank"] == 1}
    assert all(row["distance"] == 0 for row in found.to_pylist() if row["rank"] == 1)
    assert set(nearest) == {f"{number:02d}.png" for number in (0, 2, 6, 8, 10)}


def test_measures_of_a_gallery_in_a_bucket_go_into_the_bucket(bucket, tiny_birds, tiny_model, tmp_path):
    gallery, out = (join_location(bucket, name) for name in ("galleries/labelled", "evaluations/labelled"))
    data = DataOptions(name="synthetic", root=str(tiny_birds))
    encode.run(encode.EncodeConfig(model=str(tiny_model), data=data, split="test", out=gallery, engine="local"))
    config = evaluate.EvaluateConfig(gallery=gallery, out=out, tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    measures = evaluate.run(config).measures
    assert measures["encoded"]["queries"] > 0
    assert json.loads(read_text(join_location(out, "metrics.json"))) == measures
    assert read_bytes(join_location(out, "pr_curve.png")).startswith(b"\x89PNG")
    assert yaml.safe_load(read_text(join_location(out, "config.yaml")))["gallery"] == gallery


def test_a_job_into_a_bucket_goes_on_where_it_stopped_and_takes_more(bucket, photos, local, tiny_model, monkeypatch):
    out = join_location(bucket, "galleries/cut")
    config = config_of(tiny_model, join_location(photos[0], "b"), out)
    written: list[int] = []

    def cut(gallery: str, part: int, table: pa.Table, version: int, **options: Any) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(part)
        write_part(gallery, part, table, version, **options)

    monkeypatch.setattr("eet.gallery.parts.write_part", cut)
    with pytest.raises(KeyboardInterrupt):
        encode.run(config)
    with pytest.raises(ValueError, match="not a finished gallery"):
        open_gallery(out)
    monkeypatch.undo()
    encode.run(config)
    assert open_gallery(out).manifest.num_rows == 5
    more = join_location(bucket, "photos/**/*.png")
    encode.run(dataclasses.replace(config, images=more, mode="append"))
    table = open_gallery(out).table(["item_id", "code"])
    codes = dict(zip(table["item_id"].to_pylist(), table["code"].to_pylist(), strict=True))
    assert len(table) == 16 and len(codes) == 16  # 5 by their names below b/, 11 by those below photos/
    expected = dict(zip(local["item_id"].to_pylist(), local["code"].to_pylist(), strict=True))
    assert {name: codes[name] for name in expected} == expected
    assert all(codes[name.removeprefix("b/")] == code for name, code in expected.items() if name.startswith("b/"))
    encode.run(dataclasses.replace(config, images=more, mode="overwrite"))
    assert sorted(open_gallery(out).table(["item_id"])["item_id"].to_pylist()) == sorted(expected)


def test_a_bucket_or_folder_that_is_not_there_is_said_before_work(bucket, tiny_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        encode.run(config_of(tiny_model, join_location(bucket, "nowhere"), str(tmp_path / "gallery")))
    assert not (tmp_path / "gallery").exists()
