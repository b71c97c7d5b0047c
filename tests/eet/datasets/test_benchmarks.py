"""Every benchmark, laid out in small as its archive unpacks."""

from pathlib import Path

import numpy as np
import pytest

from eet.datasets import load_dataset


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(text)


def rows(table):
    """(path, label name, split) of every row: what a loader is for."""
    return [
        (path, table.label_names[label], str(split)) for path, label, split in zip(table.paths, table.labels, table.splits, strict=True)
    ]


CUB = {
    "images.txt": "1 001.Albatross/a.jpg\n2 001.Albatross/b.jpg\n3 002.Crow/c.jpg\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n",
    # In another order: rows are joined by id, not by line.
    "train_test_split.txt": "3 1\n2 0\n1 1\n",
    "classes.txt": "1 001.Albatross\n2 002.Crow\n",
    "images/": "",
}
NABIRDS = {
    "images.txt": "0000-aa 0817/x.jpg\n0000-bb 0295/y.jpg\n0000-cc 1010/z.jpg\n",
    "image_class_labels.txt": "0000-aa 817\n0000-bb 295\n0000-cc 1010\n",
    "train_test_split.txt": "0000-aa 1\n0000-bb 0\n0000-cc 0\n",
    "classes.txt": "0 Birds\n295 Common Eider (Adult male)\n817 Oak Titmouse\n1010 Dark-eyed Junco\n",
    "images/": "",
}
AIRCRAFT = {
    "data/variants.txt": "707-320\nBoeing 717\nF/A-18\n",
    "data/images_variant_trainval.txt": "1025794 Boeing 717\n1340192 707-320\n",
    "data/images_variant_test.txt": "0034309 F/A-18\n",
    "data/images/": "",
}
FOOD = {
    "meta/classes.txt": "apple_pie\nwaffles\n",
    "meta/train.txt": "waffles/11\napple_pie/1005649\n",
    "meta/test.txt": "apple_pie/22\n",
    "images/": "",
}
VEGFRU = {
    "vegfru_list/vegfru_train.txt": "veg200_images/aloe/v_1.jpg 0\nfru92_images/black grape/f_1.jpg 210\n",
    "vegfru_list/vegfru_val.txt": "veg200_images/aloe/v_2.jpg 0\n",
    "vegfru_list/vegfru_test.txt": "fru92_images/black grape/f_2.jpg 210\n",
    "veg200_images/": "",
    "fru92_images/": "",
}

SOP = {
    "Ebay_train.txt": "image_id class_id super_class_id path\n1 7 1 bicycle_final/111_0.JPG\n2 7 1 bicycle_final/111_1.JPG\n",
    "Ebay_test.txt": "image_id class_id super_class_id path\n3 11319 1 bicycle_final/222_0.JPG\n4 8 12 sofa_final/3 3_0.JPG\n",
}


def write_cars(folder: Path, test_in: str = "devkit") -> None:
    from scipy.io import savemat

    write(folder, {"devkit/": "", "cars_train/": "", "cars_test/": ""})
    fields = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    train = np.array([[(39, 3, "00001.jpg"), (36, 1, "00002.jpg")]], dtype=fields)
    test = np.array([[(30, 3, "00001.jpg")]], dtype=fields)
    savemat(folder / "devkit/cars_train_annos.mat", {"annotations": train})
    savemat(folder / test_in / "cars_test_annos_withlabels.mat", {"annotations": test})
    names = np.array([["Acura TL 2012", "Unused 2000", "Ram C/V 2012"]], dtype=object)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})


ARCHIVES = {
    "cub": (
        "CUB_200_2011",
        CUB,
        [
            ("images/001.Albatross/a.jpg", "001.Albatross", "train"),
            ("images/001.Albatross/b.jpg", "001.Albatross", "test"),
            ("images/002.Crow/c.jpg", "002.Crow", "train"),
        ],
    ),
    "nabirds": (
        "nabirds",
        NABIRDS,
        [
            ("images/0817/x.jpg", "Oak Titmouse", "train"),
            ("images/0295/y.jpg", "Common Eider (Adult male)", "test"),
            ("images/1010/z.jpg", "Dark-eyed Junco", "test"),
        ],
    ),
    "aircraft": (
        "fgvc-aircraft-2013b",
        AIRCRAFT,
        [
            ("data/images/1025794.jpg", "Boeing 717", "train"),
            ("data/images/1340192.jpg", "707-320", "train"),
            ("data/images/0034309.jpg", "F/A-18", "test"),
        ],
    ),
    "food101": (
        "food-101",
        FOOD,
        [
            ("images/waffles/11.jpg", "waffles", "train"),
            ("images/apple_pie/1005649.jpg", "apple_pie", "train"),
            ("images/apple_pie/22.jpg", "apple_pie", "test"),
        ],
    ),
    "vegfru": (
        None,
        VEGFRU,
        [
            ("veg200_images/aloe/v_1.jpg", "aloe", "train"),
            ("fru92_images/black grape/f_1.jpg", "black grape", "train"),
            ("veg200_images/aloe/v_2.jpg", "aloe", "val"),
            ("fru92_images/black grape/f_2.jpg", "black grape", "test"),
        ],
    ),
    "sop": (
        "Stanford_Online_Products",
        SOP,
        [
            ("bicycle_final/111_0.JPG", "7", "train"),
            ("bicycle_final/111_1.JPG", "7", "train"),
            ("bicycle_final/222_0.JPG", "11319", "test"),
            ("sofa_final/3 3_0.JPG", "8", "test"),
        ],
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archive_is_read_from_its_folder_and_from_the_one_around_it(name, tmp_path):
    wrapper, files, expected = ARCHIVES[name]
    folder = tmp_path / wrapper if wrapper else tmp_path
    write(folder, files)
    for root in {folder, tmp_path}:
        table = load_dataset(name, str(root))
        assert rows(table) == expected
        assert table.root == str(folder)
        assert sorted(set(table.labels.tolist())) == list(range(table.num_labels))


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_missing_file_is_named_with_its_place(name, tmp_path):
    wrapper, files, _ = ARCHIVES[name]
    for number, missing in enumerate(file for file in files if file != "classes.txt"):
        folder = tmp_path / str(number)
        write(folder, {file: text for file, text in files.items() if file != missing})
        with pytest.raises(FileNotFoundError) as error:
            load_dataset(name, str(folder))
        assert missing.rstrip("/") in str(error.value) and str(folder) in str(error.value)


def test_labels_are_numbered_in_order_of_the_original_ids(tmp_path):
    write(tmp_path, NABIRDS)
    table = load_dataset("nabirds", str(tmp_path))
    assert table.labels.tolist() == [1, 0, 2] and table.labels.dtype == np.int32


def test_classes_without_names_are_called_by_number(tmp_path):
    write(tmp_path, {name: text for name, text in CUB.items() if name != "classes.txt"})
    assert load_dataset("cub", str(tmp_path)).label_names == ("1", "2")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("image_class_labels.txt", "1 1\n2 1\n", "list different images: 1 ids.*3"),
        ("image_class_labels.txt", "1 1\n2 1\n3 two\n", "image 3 has label 'two'"),
        ("image_class_labels.txt", "1 1\n2 1\n3\n", "line 3: '3' should be two values"),
        ("images.txt", "1 a.jpg\n1 b.jpg\n3 c.jpg\n", "line 2: image 1 occurs twice"),
        ("train_test_split.txt", "1 1\n2 0\n3 2\n", "image 3 has '2'; allowed are 1"),
        ("classes.txt", "1 001.Albatross\n", "has no name for label 2"),
    ],
)
def test_lists_that_disagree_are_refused(file, text, message, tmp_path):
    write(tmp_path, {**CUB, file: text})
    with pytest.raises(ValueError, match=message):
        load_dataset("cub", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("aircraft", {**AIRCRAFT, "data/images_variant_test.txt": "1 Boeing 999\n"}, "uses 'Boeing 999'"),
        ("food101", {**FOOD, "meta/test.txt": "pizza/1\n"}, "uses 'pizza', not among the 2 names"),
        ("food101", {**FOOD, "meta/test.txt": "waffles\n"}, "'waffles' should be CLASS/ID"),
        ("vegfru", {**VEGFRU, "vegfru_list/vegfru_val.txt": "a/b c.jpg\n"}, "should be a path, a space and a label"),
        ("sop", {**SOP, "Ebay_test.txt": "3 11319 1 a.JPG\n"}, "begins with '3 11319 1 a.JPG'; it should name its columns"),
        ("sop", {**SOP, "Ebay_test.txt": SOP["Ebay_test.txt"] + "5 sofa 1 a.JPG\n"}, "'5 sofa 1 a.JPG' should be image_id class_id"),
        ("sop", {**SOP, "Ebay_test.txt": SOP["Ebay_test.txt"] + "5 9 a.JPG\n"}, "'5 9 a.JPG' should be image_id class_id"),
    ],
)
def test_lines_out_of_form_are_refused(name, files, message, tmp_path):
    write(tmp_path, files)
    with pytest.raises(ValueError, match=message):
        load_dataset(name, str(tmp_path))


@pytest.mark.parametrize("test_in", ["devkit", "."])
def test_cars_reads_annotations_and_names(test_in, tmp_path):
    write_cars(tmp_path, test_in)
    table = load_dataset("cars", str(tmp_path))
    assert rows(table) == [
        ("cars_train/00001.jpg", "Ram C/V 2012", "train"),
        ("cars_train/00002.jpg", "Acura TL 2012", "train"),
        ("cars_test/00001.jpg", "Ram C/V 2012", "test"),
    ]
    assert table.label_names == ("Acura TL 2012", "Ram C/V 2012")


def test_cars_without_class_names_or_test_labels(tmp_path):
    write_cars(tmp_path)
    (tmp_path / "devkit/cars_meta.mat").unlink()
    assert load_dataset("cars", str(tmp_path)).label_names == ("1", "3")
    (tmp_path / "devkit/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(FileNotFoundError, match="cars_test_annos_withlabels.mat not found.*downloaded separately"):
        load_dataset("cars", str(tmp_path))


def test_cars_annotations_without_labels_are_refused(tmp_path):
    from scipy.io import savemat

    write_cars(tmp_path)
    unlabelled = np.array([[(1, "00001.jpg")]], dtype=[("bbox_x1", "O"), ("fname", "O")])
    savemat(tmp_path / "devkit/cars_test_annos_withlabels.mat", {"annotations": unlabelled})
    with pytest.raises(ValueError, match="no field class"):
        load_dataset("cars", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "birds", "root": "x"}, ValueError, "'birds' is not one of cub, nabirds"),
        ({"name": "cub", "root": None}, ValueError, "'cub' needs its root"),
        ({"name": "cub", "root": "x", "table": "t.csv"}, ValueError, "only dataset 'table'"),
        ({"name": "table", "root": None}, ValueError, "needs a table"),
        ({"name": "cub", "root": "no/such/folder"}, FileNotFoundError, "no/such/folder is not a folder"),
        ({"name": "cub", "root": "s3://bucket/cub"}, ValueError, "is a URI: .* local"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments, error, message):
    with pytest.raises(error, match=message):
        load_dataset(**arguments)
