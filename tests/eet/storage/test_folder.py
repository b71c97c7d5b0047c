"""One folder in the place of another: the old or the new one, and nothing of others is deleted."""

import os
import subprocess
import sys

import pytest

from eet.errors import InputError
from eet.storage import FolderKind, exists, join_location, read_text, replace_folder, resolve, write_text

KIND = FolderKind(noun="an album", marker="album.json", names=r"page-\d+|pictures", complete="album.json")

KILLED = """
import os, sys
from eet.storage import FolderKind, replace_folder
kind = FolderKind(noun="an album", marker="album.json", names=r"page-\\\\d+", complete="album.json")
with replace_folder(sys.argv[1], kind) as fresh:
    open(os.path.join(fresh, "album.json"), "w").close()
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(params=["local", "memory"])
def album(request, tmp_path) -> str:
    return str(tmp_path / "album") if request.param == "local" else f"memory://test-folder{tmp_path}/album"


def write(location: str, pages: dict[str, str]) -> None:
    with replace_folder(location, KIND) as fresh:
        write_text(join_location(fresh, "album.json"), "{}")
        for name, text in pages.items():
            write_text(join_location(fresh, name), text)


def names(location: str) -> list[str]:
    filesystem, path = resolve(location)
    import pyarrow.fs as pafs

    return sorted(info.base_name for info in filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True)))


def test_the_new_folder_takes_the_place_of_the_old(album):
    write(album, {"page-1": "one", "page-2": "two"})
    write(album, {"page-1": "new"})
    assert names(album) == ["album.json", "page-1"] and read_text(f"{album}/page-1") == "new"
    assert names(os.path.dirname(album)) == ["album"]


def test_after_an_error_the_old_folder_is_there(album):
    write(album, {"page-1": "one"})
    with pytest.raises(RuntimeError), replace_folder(album, KIND) as fresh:
        write_text(join_location(fresh, "page-1"), "half")
        raise RuntimeError
    assert read_text(f"{album}/page-1") == "one" and names(os.path.dirname(album)) == ["album"]


@pytest.mark.parametrize("foreign", ["notes.txt", "my/precious/thesis.txt"])
def test_a_folder_that_holds_things_of_others_is_refused(album, foreign):
    write(album, {"page-1": "one"})
    write_text(f"{album}/{foreign}", "mine")
    with pytest.raises(InputError, match=f"holds other files too .{foreign.split('/')[0]}"):
        write(album, {"page-1": "new"})
    assert read_text(f"{album}/{foreign}") == "mine" and read_text(f"{album}/page-1") == "one"


def test_a_folder_without_the_marker_is_refused(album):
    write_text(f"{album}/page-1", "mine")
    with pytest.raises(InputError, match="no album.json, as an album has"):
        write(album, {"page-1": "new"})
    assert read_text(f"{album}/page-1") == "mine"


def test_what_is_put_there_while_the_new_folder_is_written_stays(album):
    if album.startswith("memory:"):
        pytest.skip("a store without folders replaces file by file, and looks once")
    write(album, {"page-1": "one"})
    with pytest.raises(InputError, match="notes.txt"), replace_folder(album, KIND):
        write_text(f"{album}/notes.txt", "mine")
    assert read_text(f"{album}/notes.txt") == "mine" and read_text(f"{album}/page-1") == "one"


def test_a_link_keeps_leading_to_the_folder(tmp_path):
    write(str(tmp_path / "disk" / "album"), {"page-1": "one"})
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "album")
    write(str(tmp_path / "link"), {"page-1": "new"})
    assert (tmp_path / "link").is_symlink() and read_text(str(tmp_path / "disk" / "album" / "page-1")) == "new"


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    album = str(tmp_path / "album")
    assert subprocess.run([sys.executable, "-c", KILLED, album]).returncode == -9
    (tmp_path / ".album.backup").mkdir()
    (tmp_path / f".other.{'0' * 32}").mkdir()
    (left,) = [name for name in os.listdir(tmp_path) if name.startswith(".album.") and name != ".album.backup"]
    with replace_folder(album, KIND) as held:  # one that is being written is no leftover
        assert not (tmp_path / left).exists()
        write_text(join_location(held, "album.json"), "{}")
        write(album, {"page-1": "second"})
        assert exists(held)
    assert sorted(os.listdir(tmp_path)) == sorted([".album.backup", f".other.{'0' * 32}", "album"])


def test_a_folder_that_a_kill_left_between_two_renames_is_put_back(tmp_path):
    """Where folders cannot be swapped at once, the old one is moved away first."""
    album = str(tmp_path / "album")
    write(album, {"page-1": "one"})
    os.rename(album, tmp_path / f".album.{'0' * 32}.old")
    with pytest.raises(RuntimeError), replace_folder(album, KIND):
        assert read_text(f"{album}/page-1") == "one"
        raise RuntimeError
    assert names(str(tmp_path)) == ["album"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc, to see what is flushed")
def test_files_are_on_the_disk_before_they_get_their_names(tmp_path, monkeypatch):
    """A loss of power leaves the old or the new contents: files are flushed before a rename, and the folder after it."""
    events: list[tuple[str, str]] = []
    flush, replace, rename = os.fsync, os.replace, os.rename

    def flushed(descriptor: int) -> None:
        events.append(("flush", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        flush(descriptor)

    def replaced(old: str, new: str) -> None:
        events.append(("name", os.path.basename(new)))
        replace(old, new)

    def renamed(old: str, new: str) -> None:
        events.append(("name", os.path.basename(new)))
        rename(old, new)

    for name, noted in (("fsync", flushed), ("replace", replaced), ("rename", renamed)):
        monkeypatch.setattr(os, name, noted)
    write_text(str(tmp_path / "measures.json"), "{}")
    assert [kind for kind, _ in events] == ["flush", "name", "flush"]
    assert events[0][1].startswith(".measures.json") and events[1:] == [("name", "measures.json"), ("flush", tmp_path.name)]
    events.clear()
    write(str(tmp_path / "album"), {"page-1": "one"})
    named = events.index(("name", "album"))
    assert {("flush", "album.json"), ("flush", "page-1")} <= set(events[:named]) and events[named + 1 :] == [("flush", tmp_path.name)]
