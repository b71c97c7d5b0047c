"""Columns of tables that are named, doubled, absent, nested, or have a dot in their name."""

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eet.datasets.listing import Columns, list_images
from eet.errors import InputError
from eet.storage import read_bytes


def listed(location: Path, **columns: str) -> dict[str, tuple[bytes, int | None]]:
    found = {}
    for batch in list_images(str(location), columns=Columns(**columns)):
        labels = [None] * len(batch.uris) if batch.labels is None else batch.labels.tolist()
        found |= {item: (read_bytes(uri), label) for item, uri, label in zip(batch.item_ids, batch.uris, labels, strict=True)}
    return found


def write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with (pa.ipc.new_file if path.stem == "file" else pa.ipc.new_stream)(path, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("name", ["t.parquet", "file.arrow", "stream.arrow"])
def test_names_with_dots_are_columns_or_fields(tmp_path, name):
    image = pa.array([{"bytes": b"struct", "path": None}])
    table = pa.table({"my.image": [b"flat"], "my.struct": image, "my": [{"thumb": b"field"}], "a.label": ["x"], "a.id": ["i"]})
    location = write(tmp_path / name, table)
    assert listed(location, image="my.image", label="a.label", item_id="a.id") == {"i": (b"flat", 0)}
    assert listed(location, image="my.struct") == {f"{name}/0": (b"struct", None)}
    assert read_bytes(f"{location}#0/0/my.thumb") == b"field"


@pytest.mark.parametrize("name", ["t.parquet", "file.arrow"])
def test_a_column_whose_name_begins_another_is_read_alone(tmp_path, name):
    table = pa.table({"label.text": ["words", "more"], "label": [5, 3], "image.small": [b"s", b"t"], "image": [b"i", b"j"]})
    location = write(tmp_path / name, table)
    assert listed(location) == {f"{name}/0": (b"i", 1), f"{name}/1": (b"j", 0)}


def test_two_columns_that_one_location_would_name_are_refused(tmp_path):
    location = write(tmp_path / "t.parquet", pa.table({"image": [{"bytes": b"a"}], "image.bytes": [b"b"]}))
    with pytest.raises(InputError, match="t.parquet has a column image.bytes and a column image with a field bytes: rename one"):
        listed(location)
    assert listed(location, image="image.bytes") == {"t.parquet/0": (b"b", None)}


@pytest.mark.parametrize("name", ["t.parquet", "file.arrow", "t.csv"])
def test_a_column_that_occurs_twice_is_refused(tmp_path, name):
    if name == "t.csv":
        (tmp_path / name).write_text("path,path,label,label\na,b,c,d\n")
    else:
        write(tmp_path / name, pa.Table.from_arrays([pa.array(["a"])] * 4, names=["path", "path", "label", "label"]))
    with pytest.raises(InputError, match=f"{name} has more than one column path, label: give each column its own name"):
        listed(tmp_path / name)


def test_a_column_that_occurs_twice_and_is_not_read_is_no_fault(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "t.csv").write_text("path,x,x\na.jpg,1,2\n")
    assert listed(tmp_path / "t.csv") == {"a.jpg": (b"a", None)}


@pytest.mark.parametrize("cell", [[1, 2], {"name": "wren"}])
@pytest.mark.parametrize("column", ["label", "key"])
def test_labels_and_ids_of_lists_or_structs_are_refused(tmp_path, cell, column):
    location = write(tmp_path / "t.parquet", pa.table({"path": ["a"], column: [cell]}))
    with pytest.raises(InputError, match=f"t.parquet: column {column} is (list|struct)<.*>; .* (names|text)"):
        listed(location, **({"item_id": "key"} if column == "key" else {}))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "file.arrow", "t.jsonl", "t.txt"])
@pytest.mark.parametrize("use", ["label", "item_id", "path", "image"])
def test_a_named_column_that_is_absent_is_refused(tmp_path, name, use):
    (tmp_path / "a.jpg").write_bytes(b"a")
    rows = {"t.csv": "path,x\na.jpg,1\n", "t.tsv": "path\tx\na.jpg\t1\n", "t.jsonl": '{"path": "a.jpg", "x": 1}\n', "t.txt": "a.jpg\n"}
    if name in rows:
        (tmp_path / name).write_text(rows[name])
    else:
        write(tmp_path / name, pa.table({"path": ["a.jpg"], "x": [1]}))
    assert set(listed(tmp_path / name)) == {"a.jpg"}
    with pytest.raises(InputError, match=f"{name} has (no column TYPO for (labels|item ids); it has path|columns path, (x|label).*TYPO)"):
        listed(tmp_path / name, **{use: "TYPO"})


@pytest.mark.parametrize("form", ["folder", "image", "glob", "braces", "coco", "tar"])
@pytest.mark.parametrize("use", ["label", "item_id", "path", "image"])
def test_a_column_named_for_what_has_none_is_refused(tmp_path, form, use):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "coco.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}]}))
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "a.jpg", "a.jpg")
    name = {"folder": ".", "image": "a.jpg", "glob": "*.jpg", "braces": "{a.jpg,a.jpg}", "coco": "coco.json", "tar": "t.tar"}[form]
    assert len(list(list_images(f"{tmp_path}/{name}"))) == 1
    with pytest.raises(
        InputError, match=f"columns.{use}" if form != "tar" or use != "label" else "t.tar has no KEY.json with a label at kind"
    ):
        list_images(f"{tmp_path}/{name}", columns=Columns(**{use: "kind"}))
