"""Every form of input lists the same images, and each location that it gives opens the right one."""

import bz2
import fnmatch
import gzip
import io
import json
import lzma
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from eet.datasets import table_formats
from eet.datasets.listing import Columns, image_list, list_images
from eet.datasets.listing.files import split_glob
from eet.errors import InputError
from eet.gallery import items_table
from eet.storage import read_bytes

NAMES = ["a/00.jpg", "a/01.PNG", "b/c/02.jpg", "b/03.webp", "04.jpg"]


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "photos"
    for name in [*NAMES, "notes.rst", "a/list.json", ".hidden/05.jpg"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(f"contents of {name}".encode())
    return root


def listed(location, **options) -> dict[str, tuple[bytes, int | None]]:
    """{item_id: (what lies at its uri, label)}"""
    found = {}
    for batch in list(list_images(str(location), **options)):  # whole: files of fsspec's memory share one position
        labels = [None] * len(batch.item_ids) if batch.labels is None else batch.labels.tolist()
        for item_id, uri, label in zip(batch.item_ids, batch.uris, labels, strict=True):
            assert item_id not in found
            found[item_id] = (read_bytes(uri), label)
    return found


def contents(*names: str, of=None) -> dict[str, tuple[bytes, None]]:
    return {name: (f"contents of {name}".encode(), None) for name in names}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_with_all_below_it(tree, scheme):
    images = list_images(f"{scheme}{tree}")
    assert listed(f"{scheme}{tree}") == contents(*NAMES)
    assert sum(len(batch.item_ids) for batch in images) == 5 and images.ignored == 2


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_hold_no_more_than_they_should(tree, monkeypatch, batch):
    monkeypatch.setattr(image_list, "BATCH_ROWS", batch)
    sizes = [len(found.item_ids) for found in list_images(str(tree))]
    assert sum(sizes) == 5 and max(sizes) == batch


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize(
    ("pattern", "below", "expected"),
    [
        ("*.jpg", "", ["04.jpg"]),
        ("*/0?.jpg", "", ["a/00.jpg"]),
        ("**/*.jpg", "", ["a/00.jpg", "b/c/02.jpg", "04.jpg"]),
        ("b/**", "b", ["c/02.jpg", "03.webp"]),
        ("a/0[!0].*", "a", ["01.PNG"]),
        ("a/0[01].*", "a", ["00.jpg", "01.PNG"]),
        ("?/*", "", ["a/00.jpg", "a/01.PNG", "b/03.webp"]),
    ],
)
def test_a_glob_counts_from_the_folder_in_front_of_it(tree, scheme, pattern, below, expected):
    if scheme and "?" in pattern:
        pytest.skip("in a URI a ? begins its options")
    found = listed(f"{scheme}{tree}/{pattern}")
    prefix = f"{below}/" if below else ""
    assert found == {name: (f"contents of {prefix}{name}".encode(), None) for name in expected}


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("img[a!].jpg", ["img!.jpg", "imga.jpg"]),
        ("img[!a].jpg", ["img!.jpg", "img^.jpg", "imgb.jpg"]),
        ("img[^a].jpg", ["img^.jpg", "imga.jpg"]),
        ("img[]a].jpg", ["imga.jpg"]),
        ("img[a", ["img[a"]),
    ],
)
def test_brackets_mean_what_they_mean_in_every_glob(tmp_path, pattern, matched):
    names = ["imga.jpg", "imgb.jpg", "img!.jpg", "img^.jpg", "img[a"]
    folder, regex = split_glob(f"{tmp_path}/{pattern}")
    assert folder == str(tmp_path)
    assert sorted(name for name in names if regex.match(name)) == sorted(matched) == sorted(fnmatch.filter(names, pattern))


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize(
    ("pattern", "below", "expected"),
    [
        ("a/{00.jpg,01.PNG}", "a", ["00.jpg", "01.PNG"]),
        ("{a,b}", "", ["a/00.jpg", "a/01.PNG", "b/c/02.jpg", "b/03.webp"]),
        ("{a,b/c}/*.jpg", "", ["a/00.jpg", "b/c/02.jpg"]),
        ("*/{0,1}{0..3}.{jpg,PNG,webp}", "", ["a/00.jpg", "a/01.PNG", "b/03.webp"]),
        ("{04.jpg,b/03.webp}", "", ["04.jpg", "b/03.webp"]),
    ],
)
def test_braces_of_images_and_folders(tree, scheme, pattern, below, expected):
    found = listed(f"{scheme}{tree}/{pattern}")
    prefix = f"{below}/" if below else ""
    assert found == {name: (f"contents of {prefix}{name}".encode(), None) for name in expected}


@pytest.mark.parametrize("scheme", ["", "file://", "memory:/"])
def test_braces_of_shards_and_tables(tmp_path, scheme, monkeypatch):
    for number in range(3):
        make_tar(tmp_path / f"s-{number:03d}.tar", {"a.jpg": f"tar {number}".encode()})
        (tmp_path / f"{number}.csv").write_text(f"path\n{number}.jpg\n")
        (tmp_path / f"{number}.jpg").write_bytes(f"csv {number}".encode())
    if scheme == "memory:/":
        filesystem = pytest.importorskip("fsspec").filesystem("memory")
        for path in tmp_path.iterdir():
            filesystem.pipe(str(path), path.read_bytes())
    assert listed(f"{scheme}{tmp_path}/s-{{000..001}}.tar") == {f"s-00{n}.tar/a.jpg": (f"tar {n}".encode(), -1) for n in range(2)}
    assert listed(f"{scheme}{tmp_path}/{{0,2}}.csv") == {f"{n}.jpg": (f"csv {n}".encode(), None) for n in (0, 2)}
    assert len(listed(f"{scheme}{tmp_path}/{{s-*,s-000}}.tar")) == 3
    with pytest.raises(FileNotFoundError, match="2 of the 5 locations of .* do not exist, such as .*s-003.tar"):
        list_images(f"{scheme}{tmp_path}/s-{{000..004}}.tar")
    with pytest.raises(ValueError, match="s-000.tar, from .* is no image: list tables and shards separately"):
        list_images(f"{scheme}{tmp_path}/{{0.jpg,s-000.tar}}")
    monkeypatch.chdir(tmp_path)
    assert set(listed("{0,1}.jpg")) == {"0.jpg", "1.jpg"}


def test_a_name_with_braces(tree):
    (tree / "{a,b}.jpg").write_bytes(b"odd")
    assert listed(tree / "{a,b}.jpg") == {"{a,b}.jpg": (b"odd", None)}


def test_two_stars_inside_a_name_are_refused(tree):
    with pytest.raises(ValueError, match=r"a\*\*.jpg: \*\* matches folders"):
        list_images(f"{tree}/a**.jpg")


def test_one_image_and_a_name_with_brackets(tree):
    assert listed(tree / "b/c/02.jpg") == {"02.jpg": (b"contents of b/c/02.jpg", None)}
    (tree / "a[1]*.jpg").write_bytes(b"odd")
    assert listed(tree / "a[1]*.jpg") == {"a[1]*.jpg": (b"odd", None)}


def test_a_csv_of_paths_with_labels_and_ids(tree, tmp_path):
    table = tmp_path / "photos.csv"
    table.write_text("file,kind,key,more\na/00.jpg,wren,x1,1\n" + f"{tree}/b/03.webp,owl,x2,2\na/01.PNG,,x3,3\n04.jpg,wren,x4,4\n")
    columns = Columns(path="file", label="kind", item_id="key")
    found = listed(table, columns=columns, root=str(tree))
    assert found == {
        "x1": (b"contents of a/00.jpg", 1),
        "x2": (b"contents of b/03.webp", 0),
        "x3": (b"contents of a/01.PNG", -1),
        "x4": (b"contents of 04.jpg", 1),
    }
    assert list_images(str(table), columns=columns).label_names == ("owl", "wren")
    plain = listed(table, columns=Columns(path="file"), root=str(tree))
    assert plain["a/00.jpg"] == (b"contents of a/00.jpg", None)  # no column called label


def test_paths_are_relative_to_the_tables_own_folder(tree):
    (tree / "tables").mkdir()
    pq.write_table(pa.table({"path": ["x.jpg"]}), tree / "tables" / "t.parquet")
    (tree / "tables" / "x.jpg").write_bytes(b"x")
    assert listed(tree / "tables" / "t.parquet") == {"x.jpg": (b"x", None)}
    assert listed(f"file://{tree}/tables/t.parquet") == {"x.jpg": (b"x", None)}


@pytest.mark.parametrize("batch", [2, 50_000])
def test_parquet_tables_of_paths_over_several_files_share_their_labels(tree, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(table_formats, "BATCH_ROWS", batch)
    for number, (paths, labels) in enumerate([(NAMES[:3], [30, 10, 10]), (NAMES[3:], [None, 20])]):
        pq.write_table(pa.table({"path": paths, "label": labels}), tmp_path / f"t{number}.parquet", row_group_size=2)
    found = listed(f"{tmp_path}/t*.parquet", root=str(tree))
    assert {name: label for name, (_, label) in found.items()} == dict(zip(NAMES, [2, 0, 0, -1, 1], strict=True))
    assert {name: (data, None) for name, (data, _) in found.items()} == contents(*NAMES)
    assert list_images(f"{tmp_path}/t*.parquet").label_names == ("10", "20", "30")


@pytest.mark.parametrize("form", ["binary", "large_binary", "struct"])
@pytest.mark.parametrize("extra", [{}, {"label": [3, 3, 1, -1, 1]}])
@pytest.mark.parametrize("batch", [2, 50_000])
def test_parquet_with_the_bytes_in_it(tmp_path, monkeypatch, form, extra, batch):
    monkeypatch.setattr(table_formats, "BATCH_ROWS", batch)
    data = [f"image {n}".encode() for n in range(5)]
    if form == "struct":
        column = pa.array([{"bytes": value, "path": None} for value in data], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    else:
        column = pa.array(data, pa.binary() if form == "binary" else pa.large_binary())
    pq.write_table(pa.table({"image": column, "name": list("vwxyz"), **extra}), tmp_path / "shard.parquet", row_group_size=3)
    labels = [None] * 5 if not extra else [1, 1, 0, -1, 0]
    expected = list(zip(data, labels, strict=True))
    assert listed(tmp_path / "shard.parquet") == {f"shard.parquet/{n}": expected[n] for n in range(5)}
    named = listed(tmp_path / "shard.parquet", columns=Columns(item_id="name"))
    assert named == dict(zip("vwxyz", expected, strict=True))


def test_a_column_that_is_named_wins_over_one_called_path(tmp_path):
    content = {"path": ["x.jpg"], "file": ["y.jpg"], "image": [b"bytes"], "thumb": [b"small"], "words": ["z"]}
    pq.write_table(pa.table(content), tmp_path / "t.parquet")
    (tmp_path / "x.jpg").write_bytes(b"x")
    (tmp_path / "y.jpg").write_bytes(b"y")
    for columns, expected in [
        (Columns(), {"x.jpg": b"x"}),
        (Columns(path="file"), {"y.jpg": b"y"}),
        (Columns(image="image"), {"t.parquet/0": b"bytes"}),
        (Columns(image="thumb"), {"t.parquet/0": b"small"}),
    ]:
        assert {name: data for name, (data, _) in listed(tmp_path / "t.parquet", columns=columns).items()} == expected
    with pytest.raises(ValueError, match="paths .file. and one of images .image. are both given"):
        list_images(str(tmp_path / "t.parquet"), columns=Columns(path="file", image="image"))
    for columns in (Columns(image="absent"), Columns(path="absent")):
        with pytest.raises(ValueError, match="it needs one of paths .*absent"):
            list_images(str(tmp_path / "t.parquet"), columns=columns)
    with pytest.raises(ValueError, match="column words is string; .* columns.path: words"):
        list_images(str(tmp_path / "t.parquet"), columns=Columns(image="words"))


@pytest.mark.parametrize("batch", [2, 50_000])
def test_json_lines(tree, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(table_formats, "BATCH_ROWS", batch)
    rows = [
        {"file_name": "a/00.jpg", "kind": "wren", "id": 1},
        {"file_name": f"{tree}/b/03.webp", "kind": "owl", "id": 2, "more": [1]},
        {"file_name": "04.jpg", "id": 3},
    ]
    text = "\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\r\n"
    (tmp_path / "t.jsonl").write_text(text, encoding="utf-8")
    columns = Columns(path="file_name", label="kind", item_id="id")
    assert listed(tmp_path / "t.jsonl", columns=columns, root=str(tree)) == {
        "1": (b"contents of a/00.jpg", 1),
        "2": (b"contents of b/03.webp", 0),
        "3": (b"contents of 04.jpg", -1),
    }
    assert list_images(f"{tmp_path}/t.jsonl", columns=columns).label_names == ("owl", "wren")
    (tmp_path / "n.jsonl").write_text('{"path": "a", "label": 30}\n{"path": "b", "label": null}\n{"path": "c", "label": 7.0}')
    assert [label for batch in list_images(f"{tmp_path}/n.jsonl") for label in batch.labels.tolist()] == [1, -1, 0]


def test_a_list_of_paths(tree):
    (tree / "list.txt").write_text(f"a/00.jpg\r\n{tree}/b/03.webp\twren\n\n04.jpg\towl \nb/c/02.jpg\t\n")
    assert listed(tree / "list.txt") == {
        "a/00.jpg": (b"contents of a/00.jpg", -1),
        f"{tree}/b/03.webp": (b"contents of b/03.webp", 1),
        "04.jpg": (b"contents of 04.jpg", 0),
        "b/c/02.jpg": (b"contents of b/c/02.jpg", -1),
    }
    assert list_images(f"{tree}/list.txt").label_names == ("owl", "wren")
    (tree / "plain.txt").write_text("04.jpg\n")
    assert listed(tree / "plain.txt") == {"04.jpg": (b"contents of 04.jpg", -1)}
    assert list_images(f"{tree}/plain.txt").label_names is None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.jsonl", b'{"path": "a"}\n{"path": ', "t.jsonl, line 2 is not JSON .*one object a line"),
        ("t.jsonl", b'["a"]\n', "line 1 is ..a.*; a .jsonl file has one object a line"),
        ("t.jsonl", b'{"path": "a", "label": 1}\n{"path": "b", "label": true}', "line 2: label is True; allowed are text, a number"),
        ("t.jsonl", b'{"path": "a"}\n{"file": "b"}', "row 2 has no path .text. in column path"),
        ("t.jsonl", b"", "has columns : it needs one of paths"),
        ("t.jsonl", b'{"image": "a.jpg"}', "columns.path"),
        ("t.txt", b"a.jpg\twren\tx", "line 1 has 2 tabs"),
        ("t.txt", b"\xff\xfe.jpg", "is not text in UTF-8"),
        ("t.txt", b"\n", "lists no image"),
    ],
)
def test_lines_out_of_form_are_refused(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=said):
        list(list_images(str(tmp_path / name)))


HUB_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("with_root", [True, False])
def test_an_image_column_of_paths_without_bytes(tree, tmp_path, statistics, with_root):
    """As `datasets.Dataset.to_parquet` writes images that are files."""
    folder = tmp_path / "tables" if with_root else tree
    folder.mkdir(exist_ok=True)
    rows = [
        *({"bytes": None, "path": name} for name in NAMES),  # a row group of paths, two with both, one of bytes
        {"bytes": b"six", "path": "a/00.jpg"},
        {"bytes": None, "path": f"{tree}/04.jpg"},
        {"bytes": None, "path": f"file://{tree}/b/03.webp"},
        *({"bytes": f"bytes {n}".encode(), "path": None} for n in range(2)),
        {"bytes": None, "path": None},
        None,
    ]
    table = pa.table({"image": pa.array(rows, HUB_IMAGE), "label": list(range(12))})
    pq.write_table(table, folder / "t.parquet", row_group_size=4, write_statistics=statistics)
    found = listed(folder / "t.parquet", **({"root": str(tree)} if with_root else {}))
    expected = [f"contents of {name}".encode() for name in NAMES]
    expected += [b"six", b"contents of 04.jpg", b"contents of b/03.webp", b"bytes 0", b"bytes 1", b"", b""]
    assert found == {f"t.parquet/{row:02d}": (data, row) for row, data in enumerate(expected)}


def test_bytes_are_not_read_while_listing_where_every_row_has_them(tmp_path, monkeypatch):
    rows = [{"bytes": b"x", "path": "x.jpg"}] * 3
    pq.write_table(pa.table({"image": pa.array(rows, HUB_IMAGE), "label": [1, 2, 3]}), tmp_path / "t.parquet")
    iter_batches, asked = pq.ParquetFile.iter_batches, []
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *given, **more: (asked.append(more["columns"]), iter_batches(*given, **more))[1]
    )
    list(list_images(str(tmp_path / "t.parquet")))
    assert asked == [["label"], ["label"]]


def write_arrow(table: pa.Table, path: Path, form: str, *, batch: int, compression: str | None = None) -> None:
    opened = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with opened(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=batch)


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("scheme", ["", "file://", "memory:/"])
@pytest.mark.parametrize("batch", [2, 50_000])
def test_arrow_files_with_the_bytes_in_them(tree, monkeypatch, form, scheme, batch):
    from eet.storage import members

    monkeypatch.setattr(members, "row_groups", members.Recent(2))
    monkeypatch.setattr(members, "unpacked_files", members.Recent(2))
    monkeypatch.setattr(table_formats, "BATCH_ROWS", batch)
    rows = [{"bytes": f"image {n}".encode(), "path": "x.jpg"} for n in range(5)]
    rows += [{"bytes": None, "path": "a/00.jpg"}, {"bytes": None, "path": None}]
    table = pa.table({"image": pa.array(rows, HUB_IMAGE), "path": list("uvwxyzä"), "label": [2, 0, 1, -1, None, 2, 0]})
    write_arrow(with_class_labels(table, ["wren", "owl", "kite"]), tree / "t.arrow", form, batch=3)
    if scheme == "memory:/":
        filesystem = pytest.importorskip("fsspec").filesystem("memory")
        for path in ("t.arrow", "a/00.jpg"):
            filesystem.pipe(f"{tree}/{path}", (tree / path).read_bytes())
    found = listed(f"{scheme}{tree}/t.arrow", columns=Columns(image="image"))
    expected = [*(f"image {n}".encode() for n in range(5)), b"contents of a/00.jpg", b""]
    assert found == {f"t.arrow/{n}": (expected[n], label) for n, label in enumerate([2, 0, 1, -1, -1, 2, 0])}
    images = list_images(f"{scheme}{tree}/t.arrow")
    assert images.label_names == ("wren", "owl", "kite")
    assert [item_id for batch in images for item_id in batch.item_ids] == list("uvwxyzä")


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_files_that_are_compressed_damaged_or_replaced(tmp_path, form):
    table = pa.table({"image": [b"x" * 5000, b"y" * 5000]})
    write_arrow(table, tmp_path / "t.arrow", form, batch=1, compression="zstd")
    assert listed(tmp_path / "t.arrow") == {"t.arrow/0": (b"x" * 5000, None), "t.arrow/1": (b"y" * 5000, None)}
    for place in ("0/1", "2/0"):
        with pytest.raises(OSError, match="replaced after it was listed"):
            read_bytes(f"{tmp_path}/t.arrow#{place}/image")
    (tmp_path / "bad.arrow").write_bytes(b"no table")
    with pytest.raises(ValueError, match="bad.arrow cannot be read"):
        list_images(str(tmp_path / "bad.arrow"))


def with_class_labels(table: pa.Table, names: list[str]) -> pa.Table:
    """With the metadata that `datasets.Dataset.to_parquet` writes."""
    features = {"path": {"dtype": "string", "_type": "Value"}, "label": {"names": names, "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_labels_that_the_schema_names_keep_their_numbers(tmp_path):
    for number, labels in enumerate([[2, 0, None], [2, -1, 2]]):
        table = pa.table(
            {"path": [f"{number}{row}.jpg" for row in range(3)], "label": pa.array(labels, pa.int64() if -1 in labels else pa.uint8())}
        )
        pq.write_table(with_class_labels(table, ["wren", "owl", "kite"]), tmp_path / f"{number}.parquet")
    images = list_images(f"{tmp_path}/*.parquet")
    assert images.label_names == ("wren", "owl", "kite")
    labels = [batch.labels for batch in images]
    assert [array.tolist() for array in labels] == [[2, 0, -1], [2, -1, 2]] and labels[0].dtype == np.int32
    pq.write_table(with_class_labels(table, ["wren", "owl"]), tmp_path / "2.parquet")
    with pytest.raises(ValueError, match="2.parquet and .*0.parquet declare different names"):
        list_images(f"{tmp_path}/*.parquet")
    with pytest.raises(ValueError, match="row 1 has 2 in column label, which declares 2 names: allowed are 0 to 1"):
        list(list_images(f"{tmp_path}/2.parquet"))


def test_metadata_that_names_no_labels_changes_nothing(tmp_path):
    table = pa.table({"path": ["a.jpg", "b.jpg"], "label": [7, 3]})
    for number, metadata in enumerate(["broken", '{"info": {"features": {"label": {"dtype": "int64", "_type": "Value"}}}}', "[]"]):
        pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / f"{number}.parquet")
        assert list_images(f"{tmp_path}/{number}.parquet").label_names == ("3", "7")
    text = pa.table({"path": ["a.jpg", "b.jpg"], "label": ["x", "y"]})
    pq.write_table(with_class_labels(text, ["y", "x"]), tmp_path / "text.parquet")
    assert list_images(f"{tmp_path}/text.parquet").label_names == ("x", "y")


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def compress_tar(path: Path, members: dict[str, bytes]) -> None:
    """A tar that is compressed as the ending of its name says."""
    compress = {"gz": gzip.compress, "tgz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": pa.Codec("zstd").compress}
    make_tar(path, members)
    path.write_bytes(compress[path.name.rpartition(".")[2].lower()](path.read_bytes()))


COMPRESSED = ["tar.gz", "tgz", "TAR.GZ", "tar.bz2", "tar.xz", "tar.zst"]


def test_tar_shards_with_labels_next_to_the_images(tmp_path):
    long = "deep/" * 30 + "image.jpg"  # a header of its own for the name
    make_tar(tmp_path / "s-000.tar", {"0001.jpg": b"one", "0001.cls": b"7", "0001.json": b"{}", "0002.front.jpg": b"two"})
    make_tar(tmp_path / "s-001.tar", {"0001.cls": b"3\n", "0001.png": b"three", long: b"four" * 999})
    found = listed(f"{tmp_path}/s-*.tar")
    assert found == {
        "s-000.tar/0001.jpg": (b"one", 7),
        "s-000.tar/0002.front.jpg": (b"two", -1),
        "s-001.tar/0001.png": (b"three", 3),
        f"s-001.tar/{long}": (b"four" * 999, -1),
    }
    images = list_images(f"{tmp_path}/s-*.tar")
    assert len(list(images)) == 1 and images.ignored == 1
    assert set(listed(tmp_path / "s-001.tar")) == {"s-001.tar/0001.png", f"s-001.tar/{long}"}


@pytest.mark.parametrize(("suffix", "scheme"), [*((suffix, "") for suffix in COMPRESSED), ("tar.gz", "file://")])
def test_compressed_tar_shards_are_unpacked_once_and_read_in_any_order(tmp_path, monkeypatch, suffix, scheme):
    from eet.storage import members

    unpack, unpacked = members.unpack, []
    monkeypatch.setattr(members, "unpacked_files", members.Recent(2))
    monkeypatch.setattr(members, "unpack", lambda *given: (unpacked.append(given[1]), unpack(*given))[1])
    data = {f"{number:03d}.jpg": np.random.default_rng(number).bytes(3000) for number in range(100)}
    for shard in range(3):
        compress_tar(tmp_path / f"s{shard}.{suffix}", {**data, "000.cls": b"wren", "000.txt": b"words"})
    images = list_images(f"{scheme}{tmp_path}/s*.{suffix}")
    (batch,) = images
    assert images.ignored == 3 and images.label_names == ("wren",) and batch.labels.tolist() == [0, *[-1] * 99] * 3
    places = list(zip(batch.item_ids, batch.uris, strict=True))
    assert unpacked == []
    with ThreadPoolExecutor(8) as pool:
        for shard in range(3):
            own = places[100 * shard : 100 * shard + 100][::-1]
            assert list(pool.map(read_bytes, [uri for _, uri in own])) == [data[item_id[-7:]] for item_id, _ in own]
    assert len(unpacked) == 3 and len(members.unpacked_files) == 2


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_damaged_or_other_compressed_tar_is_named(tmp_path, suffix):
    compress_tar(tmp_path / f"whole.{suffix}", {"a.jpg": np.random.default_rng(0).bytes(50_000)})
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    for name, data in {"short": whole[:20_000], "other": b"these are words" * 99, "empty": b""}.items():
        (tmp_path / f"{name}.{suffix}").write_bytes(data)
        with pytest.raises(InputError, match=f"{name}.{suffix} cannot be unpacked .*it is damaged"):
            listed(tmp_path / f"{name}.{suffix}")


def test_a_gzip_of_several_streams(tmp_path):
    make_tar(tmp_path / "a.tar", {"a.jpg": b"x" * 5000, "b.jpg": b"y" * 5000})
    plain = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tgz").write_bytes(gzip.compress(plain[:4000]) + gzip.compress(plain[4000:]))
    assert listed(tmp_path / "b.tgz") == {"b.tgz/a.jpg": (b"x" * 5000, -1), "b.tgz/b.jpg": (b"y" * 5000, -1)}


@pytest.mark.parametrize("form", ["cls", "json", "named key"])
def test_tar_shards_with_labels_by_name(tmp_path, form):
    def label(name: str) -> bytes:
        return f"{name}\n".encode() if form == "cls" else json.dumps({"label" if form == "json" else "kind": name, "x": 1}).encode()

    suffix = "cls" if form == "cls" else "json"
    make_tar(tmp_path / "0.tar", {"1.jpg": b"a", f"1.{suffix}": label("wren"), "2.jpg": b"b", f"3.{suffix}": label("owl"), "3.jpg": b"c"})
    make_tar(tmp_path / "1.tar", {"1.jpg": b"d", f"1.{suffix}": label("great tit"), "1.txt": b"words"})
    columns = Columns(label="kind") if form == "named key" else None
    assert listed(f"{tmp_path}/*.tar", columns=columns) == {
        "0.tar/1.jpg": (b"a", 2),
        "0.tar/2.jpg": (b"b", -1),
        "0.tar/3.jpg": (b"c", 1),
        "1.tar/1.jpg": (b"d", 0),
    }
    images = list_images(f"{tmp_path}/*.tar", columns=columns)
    assert images.label_names == ("great tit", "owl", "wren")
    assert len(list(images)) == 1 and images.ignored == 1


def test_whole_numbers_in_tar_shards_stay_as_they_are(tmp_path):
    make_tar(tmp_path / "0.tar", {"1.jpg": b"", "1.json": b'{"label": 7}', "2.jpg": b"", "2.json": b'{"label": "9"}', "3.jpg": b""})
    make_tar(tmp_path / "1.tar", {"1.jpg": b"", "1.json": b'{"label": 3}', "1.cls": b"4", "2.jpg": b"", "2.json": b"[broken"})
    images = list_images(f"{tmp_path}/*.tar")
    assert [batch.labels.tolist() for batch in images] == [[7, 9, -1, 4, -1]] and images.label_names is None


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (b"7", b"wren", r"1.tar: the label of 1 is 'wren', but the first shard .0.tar. has whole numbers, or no labels"),
        (b"wren", b"7", r"1.tar: the label of 1 is 7, but the first shard .0.tar. has names: give every image a name"),
        (b"-7", b"7", "0.tar: 1.cls holds -7; a label is a whole number from 0, or -1 for unknown"),
    ],
)
def test_numbers_and_names_in_tar_shards_are_not_mixed(tmp_path, first, second, said):
    make_tar(tmp_path / "0.tar", {"1.jpg": b"", "1.cls": first})
    make_tar(tmp_path / "1.tar", {"1.jpg": b"", "1.cls": second})
    with pytest.raises(ValueError, match=said):
        list(list_images(f"{tmp_path}/*.tar"))


def test_what_cannot_be_listed_says_what_can(tree, tmp_path):
    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "nowhere", FileNotFoundError, "nowhere does not exist: give a folder"),
        (f"{tree}/*.tar", FileNotFoundError, "no file matches"),
        (f"{tree}/*.gif", ValueError, "holds no image"),
        (tmp_path / "empty", ValueError, "holds no image .0 other files"),
        (tree / "notes.rst", ValueError, "is no image, table .*csv.*jsonl.*COCO list .* or tar shard"),
    ]
    make_tar(tmp_path / "words.tar", {"a.txt": b"words"})
    cases.append((tmp_path / "words.tar", ValueError, "hold no image .1 other members"))
    make_tar(tmp_path / "zipped.tar", {"a.jpg": b"x"}, "w:gz")
    cases.append((tmp_path / "zipped.tar", ValueError, "no plain tar file .*its name should say so .*.tar.gz"))
    (tmp_path / "short.tar.gz").write_bytes((tmp_path / "zipped.tar").read_bytes()[:60])
    cases.append((tmp_path / "short.tar.gz", ValueError, "short.tar.gz cannot be unpacked .*it is damaged"))
    (tmp_path / "other.tgz").write_bytes(b"no gzip")
    cases.append((tmp_path / "other.tgz", ValueError, "other.tgz cannot be unpacked"))
    (tmp_path / "text.tgz").write_bytes(gzip.compress(b"words" * 500))
    cases.append((tmp_path / "text.tgz", ValueError, "text.tgz cannot be unpacked"))
    make_tar(tmp_path / "labels.tar", {"a.jpg": b"x", "a.cls": b"\xff\n"})
    cases.append((tmp_path / "labels.tar", ValueError, r"holds b'.xff.n'; a label is a whole number from 0, or a name"))
    (tmp_path / "other.csv").write_text("name,label\nx,1\n")
    cases.append((tmp_path / "other.csv", ValueError, "has columns name, label: it needs one of paths"))
    (tmp_path / "hole.csv").write_text("path,label\na.jpg,1\n,1\n")
    cases.append((tmp_path / "hole.csv", ValueError, "row 2 has no path"))
    (tmp_path / "nothing.csv").write_text("path,label\n")
    cases.append((tmp_path / "nothing.csv", ValueError, "lists no image"))
    (tmp_path / "mixed.csv").write_text("path,label\na.jpg,1\nb.jpg,wren\n")
    pq.write_table(pa.table({"path": ["a"], "label": [1.5]}), tmp_path / "mixed.parquet")
    cases.append((tmp_path / "mixed.parquet", ValueError, "1.5 in column label"))
    for location, kind, message in cases:
        with pytest.raises(kind, match=message):
            list(list_images(str(location)))
    assert list_images(str(tmp_path / "mixed.csv")).label_names == ("1", "wren")
    with pytest.raises(ValueError, match="no column key for item ids; it has path, label"):
        list_images(str(tmp_path / "hole.csv"), columns=Columns(item_id="key"))
    with pytest.raises(ValueError, match="give tables of the same columns"):
        list_images(f"{tmp_path}/*o*.csv")


def test_names_that_mean_something_in_a_uri_and_suffixes_in_capitals(tmp_path):
    names = ["a%20b.jpg", "what?.jpg", "c#1.jpg", "d e.jpg"]
    (tmp_path / "odd").mkdir()
    for name in names:
        (tmp_path / "odd" / name).write_bytes(f"contents of {name}".encode())
    for scheme in ("", "file://"):
        assert listed(f"{scheme}{tmp_path}/odd") == contents(*names)
    make_tar(tmp_path / "S.TAR", {"a.JPG": b"x"})
    assert listed(tmp_path / "S.TAR") == {"S.TAR/a.JPG": (b"x", -1)}


def test_a_label_that_is_nan_is_unknown(tmp_path):
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"], "label": [1.0, float("nan"), 0.0]}), tmp_path / "t.parquet")
    ((batch),) = list_images(str(tmp_path / "t.parquet"))
    assert batch.labels.tolist() == [1, -1, 0]


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_a_gap(tree, monkeypatch):
    import os

    scandir = os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda path: scandir(path) if not str(path).endswith("/c") else (_ for _ in ()).throw(PermissionError(path))
    )
    with pytest.raises(PermissionError):
        list(list_images(str(tree)))


def test_a_named_column_that_is_absent_is_refused(tree):
    """M17."""
    (tree / "t.csv").write_text("path,species\na/00.jpg,wren\n")
    with pytest.raises(ValueError, match="has no column specie for labels; it has path, species"):
        list_images(f"{tree}/t.csv", columns=Columns(label="specie"))
    assert list_images(f"{tree}/t.csv").label_names is None
    for images in (f"{tree}/a", f"{tree}/a/*.jpg", f"{tree}/a/00.jpg"):
        with pytest.raises(ValueError, match="is no table, so it has no columns.label"):
            list_images(images, columns=Columns(label="species"))


@pytest.mark.parametrize("pattern", ["[z-a].jpg", "[\\].jpg"])
def test_a_glob_that_is_malformed_is_refused(tree, pattern):
    """L1."""
    with pytest.raises(ValueError, match="no valid glob|no file matches|holds no image"):
        list(list_images(f"{tree}/{pattern}"))


def test_labels_that_are_lists_and_columns_that_are_doubled_are_refused(tmp_path):
    """L1."""
    pq.write_table(pa.table({"path": ["a.jpg"], "label": [[1, 2]]}), tmp_path / "lists.parquet")
    with pytest.raises(ValueError, match="labels are names .text. or whole numbers"):
        list_images(str(tmp_path / "lists.parquet"))
    pq.write_table(pa.Table.from_arrays([pa.array(["a.jpg"]), pa.array(["b.jpg"])], names=["path", "path"]), tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match="more than one column path"):
        list_images(str(tmp_path / "twice.parquet"))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_column_of_images_with_a_dot_in_its_name(tmp_path, suffix):
    """L2."""
    table = pa.table({"my.image": [b"one", b"two"]})
    file = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, file)
    else:
        with pa.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table)
    (batch,) = list_images(str(file), columns=Columns(image="my.image"))
    assert [read_bytes(uri) for uri in batch.uris] == [b"one", b"two"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_names_that_are_not_utf_8_are_read(tmp_path, scheme):
    """L3."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in (b"\xff.png", b"%41.png"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(name)
    (batch,) = list_images(scheme + str(tmp_path))
    table = items_table(batch.item_ids, batch.uris)
    assert sorted(read_bytes(uri) for uri in table["uri"].to_pylist()) == [b"%41.png", b"\xff.png"]


def test_every_format_that_is_decoded_is_listed(tmp_path):
    """L4."""
    for suffix in ("avif", "jp2", "ppm", "jfif", "JPE"):
        (tmp_path / f"image.{suffix}").touch()
    assert len(listed(tmp_path)) == 5


def test_a_file_with_the_name_of_a_member_is_read(tmp_path):
    """L13."""
    (tmp_path / "x.parquet#1" / "2").mkdir(parents=True)
    (tmp_path / "x.parquet#1" / "2" / "bird.jpg").write_bytes(b"bird")
    (batch,) = list_images(str(tmp_path))
    assert read_bytes(batch.uris[0]) == b"bird"
