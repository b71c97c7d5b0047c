"""A file is there whole or not at all, on a local disk and on another store."""

import os

import pytest

from eet.storage import exists, read_bytes, resolve, whole_file


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> str:
    return str(tmp_path / "new") if request.param == "local" else f"memory://test-whole-file{tmp_path}"


def test_a_block_that_ends_well_leaves_the_file(folder):
    with whole_file(*resolve(f"{folder}/a.bin")) as file:
        file.write(b"old")
    with whole_file(*resolve(f"{folder}/a.bin")) as file:
        file.write(b"new one")
    assert read_bytes(f"{folder}/a.bin") == b"new one"


def test_a_block_that_fails_leaves_what_was_there(folder):
    with whole_file(*resolve(f"{folder}/a.bin")) as file:
        file.write(b"old")
    for name in ("a.bin", "b.bin"):
        with pytest.raises(RuntimeError), whole_file(*resolve(f"{folder}/{name}")) as file:
            file.write(b"half")
            raise RuntimeError
    assert read_bytes(f"{folder}/a.bin") == b"old" and not exists(f"{folder}/b.bin")
    assert folder.startswith("memory:") or os.listdir(folder) == ["a.bin"]
