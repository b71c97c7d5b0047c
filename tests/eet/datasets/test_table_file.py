import json

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from eet.datasets import load_dataset, table_file, table_formats
from eet.datasets.table_file import load
from eet.storage import resolve


def csv(folder, text, name="split.csv"):
    (folder / name).write_text(text)
    return str(folder / name)


def test_integer_labels_are_named_by_their_folders(tmp_path):
    csv(tmp_path, "path,label,split\n007.Owl/b.jpg,7,test\n002.Crow/a.jpg,2,train\ndeep/007.Owl/c.jpg,7,val\n")
    table = load_dataset("table", str(tmp_path))
    assert table.paths == ("007.Owl/b.jpg", "002.Crow/a.jpg", "deep/007.Owl/c.jpg")
    assert table.labels.tolist() == [1, 0, 1] and table.labels.dtype == "int32"
    assert table.label_names == ("002.Crow", "007.Owl")
    assert table.splits.tolist() == ["test", "train", "val"]
    assert table.location(0) == f"{tmp_path}/007.Owl/b.jpg"


@pytest.mark.parametrize("paths", [("x/a.jpg", "x/b.jpg", "y/c.jpg"), ("x/a.jpg", "x/b.jpg", "x/c.jpg"), ("a.jpg", "b.jpg", "c.jpg")])
def test_integer_labels_are_named_by_themselves_where_folders_do_not_tell(paths, tmp_path):
    lines = [f"{path},{label},train" for path, label in zip(paths, (10, 9, 9), strict=True)]
    table = load(None, csv(tmp_path, "path,label,split\n" + "\n".join(lines) + "\n"))
    assert table.label_names == ("9", "10")  # in order of number, not of text
    assert table.labels.tolist() == [1, 0, 0]


def test_names_and_missing_labels(tmp_path):
    table = load(str(tmp_path), csv(tmp_path, "split,path,label\ntrain,1.jpg,None\ntest,2.jpg,\ntest,3.jpg,007a\n"))
    assert table.labels.tolist() == [1, -1, 0]
    assert table.label_names == ("007a", "None")
    assert table.paths == ("1.jpg", "2.jpg", "3.jpg")


def test_missing_integer_labels_as_pandas_writes_them(tmp_path):
    table = load(None, csv(tmp_path, "path,label,split\na.jpg,3.0,train\nb.jpg,,test\nc.jpg,-1,test\nd.jpg,1.0,test\n"))
    assert table.labels.tolist() == [1, -1, -1, 0] and table.label_names == ("1.0", "3.0")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_keep_the_text_that_they_have(suffix, tmp_path):
    labels = ["007", "7", "7.0", "07", "10", "9", "-1", "", "7"]
    columns = {"path": [f"{row}.jpg" for row in range(9)], "label": [label or None for label in labels], "split": ["test"] * 9}
    file = tmp_path / f"t{suffix}"
    if suffix == ".csv":
        file.write_text(
            "\n".join([",".join(columns), *(",".join(cell or "" for cell in row) for row in zip(*columns.values(), strict=True))])
        )
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    table = load(None, str(file))
    assert [None if label < 0 else table.label_names[label] for label in table.labels] == [*labels[:6], None, None, "7"]
    assert table.label_names == ("007", "07", "7", "7.0", "9", "10")  # in order of number, then of text


@pytest.mark.parametrize(
    "labels",
    [
        pyarrow.array([5, None, 3], pyarrow.int64()),
        pyarrow.array([5.0, float("nan"), 3.0]),
        pyarrow.array(["5", None, "3"]).dictionary_encode(),
    ],
)
def test_parquet_of_any_label_type(labels, tmp_path):
    content = {
        "path": ["a/1.jpg", "a/2.jpg", "a/3.jpg"],
        "label": labels,
        "split": ["train", "test", "test"],
        "x": [0] * 3,
    }
    pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / "t.parquet")
    table = load(None, str(tmp_path / "t.parquet"))
    assert table.labels.tolist() == [1, -1, 0] and table.label_names == ("3", "5")


def test_root_defaults_to_the_folder_of_the_table_and_may_be_a_uri(tmp_path):
    file = csv(tmp_path, "path,label,split\na.jpg,x,train\n", "t.csv")
    assert load(None, file).location(0) == f"{tmp_path}/a.jpg"
    assert load("s3://bucket/birds", file).location(0) == "s3://bucket/birds/a.jpg"
    assert load(None, f"file://{file}").location(0) == f"file://{tmp_path}/a.jpg"


def test_a_table_and_its_root_may_be_uris_with_options(tmp_path, monkeypatch):
    file = csv(tmp_path, "path,label,split\na b.jpg,x,train\n")
    opened = []
    for module in (table_file, table_formats):
        monkeypatch.setattr(module, "resolve", lambda location: (opened.append(location), resolve(file))[1])
    for root, table in [(None, "s3://bucket/photos/split.csv?region=eu-1"), ("s3://bucket/photos/?region=eu-1", None)]:
        assert load(root, table).location(0) == "s3://bucket/photos/a b.jpg?region=eu-1"
    assert set(opened) == {"s3://bucket/photos/split.csv?region=eu-1"}


def test_a_table_is_read_from_any_store_that_an_installed_backend_opens():
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/birds/split.csv", b"path,label,split\na.jpg,x,train\n")
    assert load("memory://birds").location(0) == "memory://birds/a.jpg"


def test_a_bare_file_name_is_read_from_the_working_folder(tmp_path, monkeypatch):
    csv(tmp_path, "path\na.jpg\n", "t.csv")
    monkeypatch.chdir(tmp_path)
    assert load(None, "t.csv").location(0) == "./a.jpg"


def test_a_table_without_labels_needs_no_splits(tmp_path):
    table = load(None, csv(tmp_path, "path\na.jpg\nb.jpg\n"))
    assert table.labels.tolist() == [-1, -1] and table.splits.tolist() == ["test", "test"] and table.num_labels == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label,split\na.jpg,1,train\n", "has columns image, label, split; it needs path"),
        ("path,label\na.jpg,1\n", "has labels and no column split: add one with train, val, test"),
        ("path,label,split\na.jpg,1,train\nb.jpg,1,dev\n", "row 2 has split 'dev' in column split; allowed are train"),
        ("path,label,split\na.jpg,1,train\nb.jpg,1,\n", "row 2 has split None"),
        ("path,label,split\na.jpg,1,train\na.jpg,1,test\n", "more than once, for example 'a.jpg'"),
        ("path,label,split\n,1,train\n,2,train\n", r"2 rows \(1, 2\) have no path"),
        ("path,label,split\na.jpg,-3,train\nb.jpg,1,train\n", "row 1 has -3 in column label; whole numbers from 0"),
        ("path,label,split\na.jpg,1\n", "cannot be read as csv"),
        ("path,label,label,split\na.jpg,1,2,train\n", "more than one column label"),
        ("", "cannot be read as csv"),
    ],
)
def test_tables_out_of_form_are_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(None, csv(tmp_path, text))


def test_fractional_labels_are_refused(tmp_path):
    content = {"path": ["a.jpg", "b.jpg"], "label": [1.5, 2.0], "split": ["train", "train"]}
    pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="1.5 in column label; allowed are names, or whole numbers"):
        load(None, str(tmp_path / "t.parquet"))


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="split.csv is not a file"):
        load_dataset("table", str(tmp_path))
    with pytest.raises(ValueError, match="should end in .csv, .tsv, .parquet, .arrow, .jsonl or .txt"):
        load(None, "labels.xlsx")
    (tmp_path / "t.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        load(None, str(tmp_path / "t.parquet"))


ROWS = [("a/1.jpg", "007", "train"), ("b, c/2.jpg", None, "test"), ("ü/3.jpg", "12", "val"), ("4.jpg", "-1", "test")]


def write_rows(folder, suffix) -> str:
    """ROWS as a table of this format."""
    file = folder / f"rows{suffix}"
    columns = {name: [row[place] for row in ROWS] for place, name in enumerate(("path", "label", "split"))}
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in ROWS))
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=3)
    elif suffix == ".arrow":
        with pyarrow.ipc.new_file(file, pyarrow.table(columns).schema) as writer:
            writer.write_table(pyarrow.table(columns), max_chunksize=3)
    else:
        lines = [list(columns), *([cell or "" for cell in row] for row in ROWS)]
        mark = "\t" if suffix.lower() == ".tsv" else ","
        file.write_text("".join(mark.join(f'"{cell}"' if "," in cell else cell for cell in line) + "\n" for line in lines))
    return str(file)


@pytest.mark.parametrize("batch", [2, 50_000])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".TSV", ".jsonl", ".parquet", ".arrow"])
def test_every_format_holds_the_same_table(suffix, batch, tmp_path, monkeypatch):
    monkeypatch.setattr(table_formats, "BATCH_ROWS", batch)
    table = load(None, write_rows(tmp_path, suffix))
    assert table.paths == tuple(path for path, _, _ in ROWS)
    assert table.labels.tolist() == [0, -1, 1, -1] and table.label_names == ("a", "ü")
    assert table.splits.tolist() == ["train", "test", "val", "test"]


def test_json_lines_with_numbers_and_missing_keys(tmp_path):
    text = '{"path": "a.jpg", "label": 3, "split": "train", "size": [5, 5]}\n\n{"path": "b.jpg", "split": "test"}\n'
    table = load(None, csv(tmp_path, text, "t.jsonl"))
    assert table.labels.tolist() == [0, -1] and table.label_names == ("3",)
    with pytest.raises(ValueError, match="t.jsonl, line 2 is not JSON"):
        load(None, csv(tmp_path, text.replace("\n\n", "\n[1,\n"), "t.jsonl"))


def test_a_list_of_paths_has_no_splits_and_so_no_labels(tmp_path):
    table = load("photos", csv(tmp_path, "a.jpg\nb c.jpg\n", "list.txt"))
    assert table.paths == ("a.jpg", "b c.jpg") and table.labels.tolist() == [-1, -1] and table.splits.tolist() == ["test", "test"]
    with pytest.raises(ValueError, match="has labels and no column split"):
        load("photos", csv(tmp_path, "a.jpg\twren\n", "list.txt"))


def test_a_table_of_no_row_is_empty(tmp_path):
    for name, text in {"t.csv": "path,label,split\n", "t.tsv": "path\tlabel\tsplit\n"}.items():
        assert len(load(None, csv(tmp_path, text, name))) == 0
