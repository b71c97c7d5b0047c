"""Local paths and URIs lead to a file system and a path in it, and are the same place however they are written."""

import os

import pytest

from eet.errors import InputError
from eet.storage import absolute, is_inside, resolve, same_location


def test_resolve(tmp_path):
    filesystem, path = resolve(tmp_path / "a:b" / ".." / "c d")
    assert (filesystem.type_name, path) == ("local", str(tmp_path / "c d"))
    assert resolve("file:///x/a%20b/c d?e#f")[1] == "/x/a b/c d?e#f"
    filesystem, path = resolve("gs://anonymous@bucket/folder/a%20b/100%.jpg")
    assert (filesystem.type_name, path) == ("gcs", "bucket/folder/a b/100%.jpg")
    with pytest.raises(ValueError, match="install the fsspec backend for nosuchscheme://"):
        resolve("nosuchscheme://host/a")


def test_a_place_is_the_same_under_all_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    (photos / "a").mkdir(parents=True)
    (photos / "list.csv").write_text("path\n")
    os.link(photos / "list.csv", tmp_path / "linked.csv")  # another path of the same file, as in a second mount of a disk
    (tmp_path / "short").symlink_to(photos)
    for name in ("photos", "./photos/", "short", "x/../photos", f"file://{photos}", f"{tmp_path}//photos"):
        assert same_location(name, str(photos)) and is_inside(name, "short"), name
        assert is_inside(f"{name}/a/none.jpg", f"file://{photos}") and not is_inside("photos", f"{name}/a"), name
    assert same_location("linked.csv", "photos/list.csv") and not is_inside("linked.csv", "photos")
    (tmp_path / "photos-of-others").mkdir()
    assert not is_inside("photos-of-others", "photos") and not same_location("none", "nothing") and same_location("none", "./none")
    assert same_location("memory://a/b/", "memory://a/c/../b") and is_inside("memory://a/b/c.jpg", "memory://a")
    assert not same_location("memory://a", "a") and not is_inside("memory://ab", "memory://a")


@pytest.mark.parametrize("use", [absolute, resolve])
def test_an_empty_location_is_not_the_working_directory(use):
    with pytest.raises(InputError, match="it is empty; give a path or a URI"):
        use("")
    with pytest.raises(InputError, match="zero byte"):
        use("a\0b")
