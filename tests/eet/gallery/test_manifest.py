import json

import pytest

from eet.gallery import Manifest, gallery_schema, read_manifest, write_manifest


def manifest(**changes) -> Manifest:
    values = {
        "model_digest": "m",
        "preprocessing_digest": "p",
        "num_bits": 32,
        "token_shape": (12, 384),
        "token_dtype": "float16",
        "embedding_dim": 384,
        "label_names": ("Côte", "b"),
        "num_rows": 10,
        "num_ok": 8,
        "errors": {"missing": 2},
        "num_parts": 3,
        "rows_per_part": 4,
        "inputs": ("photos",),
    }
    return Manifest(**{**values, **changes})


@pytest.mark.parametrize(
    "changes", [{}, {"token_shape": None, "label_names": None, "embedding_dim": None}, {"jpegs_on": "gpu"}, {"positions": True}]
)
def test_round_trip(tmp_path, changes):
    made = manifest(**changes)
    write_manifest(str(tmp_path / "gallery"), made)
    assert read_manifest(str(tmp_path / "gallery")) == made
    assert [path.name for path in (tmp_path / "gallery").iterdir()] == ["manifest.json"]
    assert json.loads((tmp_path / "gallery" / "manifest.json").read_text("utf-8"))["schema_version"] == 3


def test_fields_that_came_later_are_left_out_at_their_defaults():
    """So that the manifest of a gallery is as before there was a choice."""
    assert "jpegs_on" not in manifest().to_json() and '"jpegs_on": "gpu"' in manifest(jpegs_on="gpu").to_json()
    assert "positions" not in manifest().to_json() and "easting" not in manifest().schema.names
    assert [*manifest(positions=True).schema.names][-6:] == ["easting", "northing", "zone", "condition", "status", "error"]


def test_the_schema_is_the_parts_schema():
    assert manifest().schema.equals(gallery_schema(num_bits=32, token_shape=(12, 384), embedding_dim=384))


def test_no_manifest_says_what_was_looked_for_and_who_writes_it(tmp_path):
    for gallery in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match="no manifest.json.*eet encode"):
            read_manifest(str(gallery))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (manifest(schema_version=4).to_json(), "schema version 4; this program reads versions 1, 2 and 3"),
        ("{", "not JSON"),
        ("[]", "not the manifest of a gallery"),
        ('{"num_bits": 3}', "no schema_version"),
        ('{"schema_version": 1}', "missing fields.*num_bits"),
        (manifest().to_json().replace('"inputs"', '"colour"'), "unknown fields.*colour"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_manifest_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match="UTF-8"):
        read_manifest(str(tmp_path))
