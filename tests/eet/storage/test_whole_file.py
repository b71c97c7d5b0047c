"""A file is there whole or not at all, on a local disk and on another store."""

import errno
import os
import re
import resource

import pytest

from eet.storage import exists, read_bytes, remove_leftovers, remove_leftovers_in, resolve, whole_file, write_text


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


def test_a_check_that_refuses_leaves_what_was_there(folder):
    def refuse() -> None:
        raise RuntimeError("taken over")

    with pytest.raises(RuntimeError, match="taken over"), whole_file(*resolve(f"{folder}/a.bin"), check=refuse) as file:
        file.write(b"complete")
    assert not exists(f"{folder}/a.bin")
    assert folder.startswith("memory:") or os.listdir(folder) == []


def test_an_error_that_a_file_cannot_grow_names_it(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=re.escape(f"[Errno {errno.EFBIG}] File too large: '{tmp_path}/text'")):
            write_text(f"{tmp_path}/text", "." * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_writers_are_removed_and_files_in_use_stay(tmp_path):
    left, other = tmp_path / f".a.bin.{'0' * 32}.tmp", tmp_path / ".a.bin.tmp"
    left.touch()
    other.touch()
    with whole_file(*resolve(str(tmp_path / "a.bin"))) as file:
        remove_leftovers(str(tmp_path / "a.bin"))
        file.write(b"complete")
    assert sorted(os.listdir(tmp_path)) == [".a.bin.tmp", "a.bin"]
    left.touch()
    remove_leftovers_in(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [".a.bin.tmp", "a.bin"]
