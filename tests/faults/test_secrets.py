"""Credentials in URIs: every way in refuses them, and no file, message or line ever holds them."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import eet
from eet.datasets.listing import list_images
from eet.errors import InputError
from eet.gallery import is_gallery, items_table, write_hits
from eet.vit import load_bundle, save_bundle
from pipelines import encode
from pipelines.cli import JOBS, main
from pipelines.job.location import LOCATION, location_problems
from pipelines.job.options import DataOptions
from pipelines.job.output import write_config

SECRET = "Pa55word"
URI = f"s3://AKID:{SECRET}@bucket/x"
URIS = [URI, f"s3://AKID:a/{SECRET}@bucket/x", f"s3://bucket/x?access_key=AKID&secret_key={SECRET}", f"http://me:{SECRET}@host/x"]


def flags_of(config_class: type, prefix: str = "") -> list[str]:
    """All flags that are locations or addresses."""
    found = []
    for entry in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(entry.type):
            found += flags_of(entry.type, f"{prefix}{entry.name}.")
        elif entry.metadata:
            found.append(f"{prefix}{entry.name}")
    return found


@pytest.mark.parametrize("job", JOBS)
def test_every_flag_of_every_job_refuses_them(job, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config_class = JOBS[job].config_class
    flags = flags_of(config_class)
    assert {"tracking_uri", "address"} <= set(flags) and LOCATION
    values: dict = {field.name: "x" for field in dataclasses.fields(config_class) if field.default is field.default_factory}
    for flag in flags:
        for uri in URIS:
            assert main([job, f"--{flag}", uri]) == 2
            assert main([job, f"--{flag.replace('_', '-')}={uri}"]) == 2
        inner = values
        *groups, name = flag.split(".")
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = [URI] if name in ("results", "image_roots") else URI
    Path("job.yaml").write_text(json.dumps(values))
    assert main([job, "--config", "job.yaml"]) == 2
    printed = capsys.readouterr()
    assert SECRET not in printed.err + printed.out
    lines = printed.err.splitlines()
    for flag in flags:
        refusals = [line for line in lines if line.startswith(f"eet {job}: --{flag.replace('_', '-')}: ") and "holds credentials" in line]
        assert len(refusals) == len(URIS) * 2 + 1, (flag, printed.err)
    assert printed.err.count("holds credentials") == len(flags) * (len(URIS) * 2 + 1), printed.err
    Path("job.yaml").unlink()
    assert main([job, "--no-such-flag", URI]) == 2 and SECRET not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", URIS)
def test_the_python_functions_refuse_them(uri, tiny_model, photos, tmp_path):
    photo = str(next(iter(sorted(photos.iterdir()))))
    for call in (
        lambda: eet.encode(tiny_model, uri),
        lambda: eet.encode(tiny_model, f"{uri}/*.jpg"),
        lambda: eet.encode(tiny_model, [photo, uri]),
        lambda: eet.encode(tiny_model, photo, out=uri),
        lambda: eet.encode(uri, photo),
        lambda: eet.load_model(uri),
        lambda: eet.open_gallery(uri),
        lambda: eet.search(uri, uri),
        lambda: eet.evaluate(uri),
        lambda: is_gallery(uri),
        lambda: list_images(f"{uri}/{{a,b}}.csv"),
        lambda: items_table(["a", "b"], [photo, uri]),
        lambda: write_hits(uri, pa.table({})),
        lambda: save_bundle(load_bundle(tiny_model), uri),
        lambda: write_config(str(tmp_path), encode.EncodeConfig(model="m", out="o", tracking_uri=uri)),
        lambda: encode.run(encode.EncodeConfig(model=str(tiny_model), out=str(tmp_path / "g"), images=uri)),
    ):
        with pytest.raises(InputError, match="holds credentials") as caught:
            call()
        assert SECRET not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_cells_of_tables_and_lines_of_lists_refuse_them(tiny_model, photos, tmp_path):
    photo = str(next(iter(sorted(photos.iterdir()))))
    pq.write_table(pa.table({"path": [photo, URI]}), tmp_path / "paths.parquet")
    cells = pa.array([{"bytes": None, "path": photo}, {"bytes": None, "path": URI}])
    pq.write_table(pa.table({"image": cells.cast(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}), tmp_path / "cells.parquet")
    (tmp_path / "paths.csv").write_text(f"path,label,split\n{photo},a,test\n{URI},b,test\n")
    (tmp_path / "twice.csv").write_text(f"path,label,split\n{URI},a,test\n{URI},b,test\n")
    (tmp_path / "paths.txt").write_text(f"{photo}\n{URI}\n")
    (tmp_path / "coco.json").write_text(json.dumps({"images": [{"id": 1, "file_name": URI}], "annotations": [], "categories": []}))
    tables = sorted(path for path in tmp_path.iterdir())
    for number, table in enumerate(tables):
        config = encode.EncodeConfig(model=str(tiny_model), out=str(tmp_path / f"g{number}"), images=str(table), engine="local")
        data = DataOptions(name="table", table=str(table))
        for changed in (config, *([dataclasses.replace(config, images=None, data=data)] if table.suffix == ".csv" else [])):
            with pytest.raises(InputError, match="holds credentials") as caught:
                encode.run(changed)
            assert SECRET not in str(caught.value), table
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path not in tables]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()], written


def test_options_without_credentials_are_no_problem():
    uri = "s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1"
    assert location_problems(encode.EncodeConfig(model="m", out=uri, images=uri, tracking_uri="http://host:5000")) == []
