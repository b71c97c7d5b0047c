import pyarrow as pa
import pytest

from eet.errors import InputError
from eet.gallery import HITS_SCHEMA
from eet.retrieval.answers import write_answers


def hits(*rows):
    columns = [{"query_id": query, "rank": rank, "item_id": item, "distance": 0, "score": 0.0} for query, rank, item in rows]
    return pa.Table.from_pylist([row | {"query_label": None, "item_label": None} for row in columns], schema=HITS_SCHEMA)


def test_a_line_holds_the_keys_of_a_query_and_its_first_hits(tmp_path):
    rows = [("c/q/2b.jpg", 1, "c/d/x.jpg"), ("c/q/1a.jpg", 2, "c/d/y.jpg"), ("c/q/1a.jpg", 1, "c/d/z.jpg"), ("c/q/1a.jpg", 3, "c/d/x.jpg")]
    write_answers(str(tmp_path / "answers.txt"), hits(*rows), k=2)
    assert (tmp_path / "answers.txt").read_text() == "1a z y\n2b x\n"


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        ([("q/1.jpg", 1, "d/1.jpg")], 1, "same name in different folders"),
        ([("q/1 a.jpg", 1, "d/2.jpg")], 1, "'1 a' has a space"),
        ([], 0, "k=0"),
    ],
)
def test_answers_that_could_not_be_read_are_refused(rows, k, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write_answers(str(tmp_path / "answers.txt"), hits(*rows), k=k)
