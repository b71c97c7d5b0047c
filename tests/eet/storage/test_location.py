"""Local paths and URIs lead to a file system and a path in it."""

import pytest

from eet.storage import resolve


def test_resolve(tmp_path):
    filesystem, path = resolve(tmp_path / "a:b" / ".." / "c d")
    assert (filesystem.type_name, path) == ("local", str(tmp_path / "c d"))
    assert resolve("file:///x/a%20b/c d?e#f")[1] == "/x/a b/c d?e#f"
    filesystem, path = resolve("gs://anonymous@bucket/folder/a%20b/100%.jpg")
    assert (filesystem.type_name, path) == ("gcs", "bucket/folder/a b/100%.jpg")
    with pytest.raises(ValueError, match="install the fsspec backend for nosuchscheme://"):
        resolve("nosuchscheme://host/a")
