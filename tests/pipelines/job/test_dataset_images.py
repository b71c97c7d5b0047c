"""A dataset as a list of images, by split and role."""

import pytest

from eet.errors import InputError
from pipelines.job.dataset_images import images_of_dataset

TABLE = """path,easting,northing,role
a.jpg,0,0,database
b.jpg,0,10,database
c.jpg,0,5,query
"""


def test_a_role_is_chosen_and_described(tmp_path):
    (tmp_path / "places.csv").write_text(TABLE)
    images = images_of_dataset("table", None, table=str(tmp_path / "places.csv"), role="database")
    (batch,) = images
    assert batch.item_ids == ["a.jpg", "b.jpg"] and images.has_places and batch.places.metres_N2[:, 1].tolist() == [0, 10]
    assert images.description.endswith("places.csv, split all, role database")
    with pytest.raises(InputError, match="split 'train'"):
        images_of_dataset("table", None, table=str(tmp_path / "places.csv"), split="train")
