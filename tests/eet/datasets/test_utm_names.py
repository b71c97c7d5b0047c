import numpy as np
import pytest

from eet.datasets import load_dataset
from eet.errors import InputError, NotFoundError

WHOLE = "@0583990.08@4477224.88@17@T@40.44@-80.01@pano@07@090@1@0@@201410@day_forward_cph@.jpg"


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return load_dataset("utm_names", str(folder))


def test_names_are_positions_and_folders_are_splits_and_roles(tmp_path):
    images = tmp_path / "images"
    table = write(
        tmp_path, f"images/test/database/a/b/{WHOLE}", "images/test/queries/@1@2.5@17@T@.jpg", "images/train/database/@3@4@18@T@@.png",
        "images/notes.jpg", "images/val/queries/@5@6@17@T@x@.jpg",
    )  # fmt: skip
    found = dict(zip(table.paths, zip(table.splits, table.places.roles_N, table.places.zones_N, strict=True), strict=True))
    assert found == {
        f"images/test/database/a/b/{WHOLE}": ("test", "database", "17T"),
        "images/test/queries/@1@2.5@17@T@.jpg": ("test", "query", "17T"),
        "images/train/database/@3@4@18@T@@.png": ("train", "database", "18T"),
        "images/val/queries/@5@6@17@T@x@.jpg": ("val", "query", "17T"),
    }
    np.testing.assert_array_equal(table.places.metres_N2, [[583990.08, 4477224.88], [1, 2.5], [3, 4], [5, 6]])
    assert table.places.conditions_N.tolist() == ["day_forward_cph", "", "", ""]
    np.testing.assert_array_equal(table.places.headings_N, [90, np.nan, np.nan, np.nan])
    assert len(load_dataset("utm_names", str(images))) == 4 and (table.labels == -1).all()


def test_folders_without_a_split_are_of_the_test_and_zones_hold_only_if_all_have_one(tmp_path):
    table = write(tmp_path, "database/@0@0@17@T@x@.jpg", "queries/@1@2@.jpg")
    assert table.splits.tolist() == ["test", "test"] and table.places.zones_N.tolist() == ["", ""]


@pytest.mark.parametrize("name", ["a.jpg", "@1@x@.jpg", "@1.jpg", "b@1@2@.jpg", "@nan@1@.jpg"])
def test_a_name_without_a_position_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="begins with @easting@northing@"):
        write(tmp_path, f"queries/{name}")


def test_a_folder_without_sides_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match="no image found under"):
        write(tmp_path, "x/@1@2@.jpg")
