import numpy as np
import pytest

from eet.datasets import Places, class_disjoint, hold_out_validation, load_dataset
from eet.errors import InputError

CSV = """path,label,split,role,condition,easting,northing,zone
a.jpg,x,train,query,night,1.5,2,32N
b.jpg,x,train,database,day,,,
c.jpg,y,train,database,day,3,4,33N
d.jpg,y,train,,,5,6,33N
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "split.csv").write_text(CSV)
    return load_dataset("table", str(tmp_path))


def test_a_table_may_say_where_images_were_taken(table):
    np.testing.assert_array_equal(table.places.metres_N2, [[1.5, 2], [np.nan, np.nan], [3, 4], [5, 6]])
    assert table.places.zones_N.tolist() == ["32N", "", "33N", "33N"]
    assert table.places.conditions_N.tolist() == ["night", "day", "day", ""]
    assert table.with_role("database").paths == ("b.jpg", "c.jpg")
    assert table.with_role("query").places.metres_N2.tolist() == [[1.5, 2]]


def test_places_stay_with_their_images(table):
    for changed in (class_disjoint(table), hold_out_validation(table, 0.5, 0)):
        assert changed.places.zones_N.tolist() == ["32N", "", "33N", "33N"]
    assert class_disjoint(table).select("test").places.metres_N2.tolist() == [[3, 4], [5, 6]]


def test_a_table_without_positions_has_no_places(tmp_path):
    (tmp_path / "split.csv").write_text("path,role\na.jpg,portrait\n")
    table = load_dataset("table", str(tmp_path))
    assert table.places is None
    with pytest.raises(InputError, match="has the role 'query'; it has no roles at all"):
        table.with_role("query")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,easting\na.jpg,1\n", "easting alone: a position needs"),
        ("path,easting,northing\na.jpg,1,far\n", "row 1 has 'far' in column northing"),
        ("path,easting,northing\na.jpg,inf,1\n", "in column easting"),
        ("path,easting,northing\na.jpg,1,\n", "one coordinate without the other"),
        ("path,easting,northing,role\na.jpg,1,2,gallery\n", "role 'gallery': allowed are query, database"),
    ],
)
def test_wrong_places_are_refused(text, message, tmp_path):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_dataset("table", str(tmp_path))


def test_gardens_point_loads_as_it_is(shared):
    table = load_dataset("table", None, table=str(shared / "data/places/places.csv"))
    assert len(table.with_role("database")) == 120 and len(table.with_role("query")) == 240
    assert set(table.places.conditions_N.tolist()) == {"day_left", "day_right", "night_right"}
    assert isinstance(table.places, Places) and table.places.metres_N2[119].tolist() == [0, 1190]
