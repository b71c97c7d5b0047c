"""A model at a URI is the model of the folder that was put there."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import fsspec
import huggingface_hub
import pytest

import eet
from eet.gallery import read_model_record
from eet.storage import cache_folder
from eet.vit import load_bundle, save_bundle


def put(folder: Path, uri: str) -> None:
    filesystem, path = fsspec.url_to_fs(uri)
    filesystem.put(f"{folder}/", f"{path}/", recursive=True)


def cached() -> set[Path]:
    return set((cache_folder() / "models").glob("*/*"))


def test_a_model_in_any_store_is_copied_once(tiny_model):
    uri = "memory://models/birds"
    put(tiny_model, uri)
    before = cached()
    assert read_model_record(uri).digest == read_model_record(tiny_model).digest
    assert {path.name for path in cached() - before} == {"model.json"}  # a record needs no weights
    assert eet.load_model(uri).num_bits == 16
    (weights,) = (path for path in cached() - before if path.name == "model.safetensors")
    copied = weights.stat().st_mtime_ns
    assert eet.load_model(uri).num_bits == 16 and weights.stat().st_mtime_ns == copied


def test_another_model_at_the_same_uri_is_loaded_anew(tiny_model, tmp_path):
    uri = "memory://models/changing"
    put(tiny_model, uri)
    first = eet.load_model(uri)
    other = load_bundle(tiny_model)
    other.head_hash.bias.data += 1
    save_bundle(other, tmp_path / "other")
    put(tmp_path / "other", uri)
    assert not first.head_hash.bias.equal(eet.load_model(uri).head_hash.bias)


def test_a_file_server_serves_a_model(tiny_model):
    pytest.importorskip("aiohttp", reason="fsspec opens http with aiohttp, which is not installed")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tiny_model.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/{tiny_model.name}"
        assert eet.load_model(uri).num_bits == 16
        with pytest.raises(ValueError, match=r"is no model bundle: model\.json is missing there"):
            eet.load_model(f"{uri}/nothing")
        server.shutdown()


def test_a_model_of_the_hub_comes_from_its_cache(tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / "snapshot" / "small")
    asked = []

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision, tuple(allow_patterns)))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert eet.load_model("hf://museum/birds@v2/small").num_bits == 16
    assert set(asked) == {
        ("museum/birds", "v2", ("small/model.json",)),
        ("museum/birds", "v2", ("small/model.json", "small/model.safetensors")),
    }
    assert len(asked) == 2  # though a record is read several times
    with pytest.raises(ValueError, match=r"hf://museum/birds@v2 is no model bundle: hf://museum/birds@v2/model\.json is missing"):
        eet.load_model("hf://museum/birds@v2")


def test_what_the_hub_refuses_is_explained(monkeypatch):
    def snapshot_download(*_: object, **__: object) -> str:
        raise OSError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match="hf://museum/gone cannot be downloaded: no route to the hub.*hf auth login"):
        eet.load_model("hf://museum/gone")
    for uri in ("hf://birds", "hf://museum/birds@", "hf://datasets/museum/birds"):
        with pytest.raises(ValueError, match="names no model of the hub"):
            eet.load_model(uri)


def test_a_model_cannot_be_written_to_a_uri(tiny_model):
    with pytest.raises(ValueError, match="written into a local folder"):
        save_bundle(load_bundle(tiny_model), "memory://models/new")
