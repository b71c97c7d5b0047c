import os

import pytest

from eet.datasets import load_dataset


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_split_folders_are_the_splits(tmp_path):
    touch(tmp_path, "train/crow/a.jpg", "train/owl/b.JPG", "val/owl/c.png", "test/crow/deep/d.webp", "train/notes.txt")
    table = load_dataset("folder", str(tmp_path))
    assert table.paths == ("test/crow/deep/d.webp", "train/crow/a.jpg", "train/owl/b.JPG", "val/owl/c.png")
    assert table.splits.tolist() == ["test", "train", "train", "val"]
    assert [table.label_names[label] for label in table.labels] == ["crow", "crow", "owl", "owl"]


def test_without_split_folders_a_fifth_of_each_label_is_test(tmp_path):
    touch(tmp_path, *(f"crow/{n}.jpg" for n in range(20)), *(f"owl/{n}.jpg" for n in range(10)), "wren/only.jpg")
    table = load_dataset("folder", str(tmp_path))
    tested = {name: int((table.splits[table.labels == label] == "test").sum()) for label, name in enumerate(table.label_names)}
    assert tested == {"crow": 4, "owl": 2, "wren": 0}


def test_the_split_does_not_depend_on_where_the_folder_lies(tmp_path):
    tables = []
    for name in ("here", "there"):
        touch(tmp_path / name, *(f"{label}/{n}.jpg" for label in "ab" for n in range(15)))
        tables.append(load_dataset("folder", str(tmp_path / name)))
    assert tables[0].splits.tolist() == tables[1].splits.tolist()


@pytest.mark.parametrize(
    "names",
    [
        ("crow/a.jpg", "b.jpg"),
        ("train/crow/a.jpg", "owl/deep/b.jpg"),
        ("train/crow/a.jpg", "owl/b.jpg"),
        ("train/a.jpg",),
    ],
)
def test_images_outside_label_folders_are_refused(names, tmp_path):
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=f"1 images .* for example {names[-1]}"):
        load_dataset("folder", str(tmp_path))


def test_an_empty_folder_is_refused(tmp_path):
    touch(tmp_path, "crow/notes.txt")
    with pytest.raises(FileNotFoundError, match=r"no image found .*1 other files"):
        load_dataset("folder", str(tmp_path))


def test_names_that_are_not_utf_8_are_drawn_and_named(tmp_path):
    """L3: such a file in a label folder, and such a label folder."""
    labels = (b"wren", b"caf\xe9")
    for label in labels:
        os.mkdir(os.fsencode(tmp_path) + b"/" + label)
        for name in (b"\xff.jpg", *(b"%d.jpg" % number for number in range(9))):
            with open(os.fsencode(tmp_path) + b"/" + label + b"/" + name, "wb"):
                pass
    table = load_dataset("folder", str(tmp_path))
    assert table.label_names == ("caf\\udce9", "wren") and (table.splits == "test").sum() == 4
    assert all(os.path.exists(table.location(row)) for row in range(len(table)))
