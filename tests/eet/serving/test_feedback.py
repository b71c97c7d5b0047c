"""Judgements become a table of labelled images that a training reads."""

import pytest

from eet.datasets import table_file
from eet.errors import DamagedError, InputError
from eet.serving import Feedback, Judgement


def judged(query: str, item: str, right: bool | None = True, query_label: str | None = None, item_label: str | None = None) -> Judgement:
    return Judgement(query=query, item=item, right=right, query_label=query_label, item_label=item_label)


def labels(*judgements: Judgement) -> tuple[dict[str, str], int]:
    feedback = Feedback()
    for judgement in judgements:
        feedback.add(judgement)
    return feedback.labelled_images()


@pytest.mark.parametrize(
    "judgements, expected, left_out",
    [
        ([judged("q", "a", item_label="wren")], {"a": "wren", "q": "wren"}, 0),
        ([judged("q", "b"), judged("b", "a")], {"a": "like a", "b": "like a", "q": "like a"}, 0),
        ([judged("q", "b"), judged("b", "a", item_label="wren")], {"a": "wren", "b": "wren", "q": "wren"}, 0),
        ([judged("q", "a", item_label="wren"), judged("q", "b", item_label="robin")], {}, 3),
        ([judged("q", "a"), judged("a", "b"), judged("q", "b", right=False)], {}, 3),
        ([judged("q", "a", right=False, item_label="wren")], {}, 0),
        ([judged("q", "a"), judged("q", "a", right=False)], {}, 0),
        ([judged("q", "a"), judged("q", "a", right=None)], {}, 0),
        ([judged("query:1", "a", item_label="wren")], {"a": "wren"}, 0),
        ([judged("a", "b", query_label="wren", item_label="wren")], {"a": "wren", "b": "wren"}, 0),
    ],
    ids=["label", "no label", "chain", "two labels", "contradiction", "wrong", "changed", "taken back", "not kept", "both"],
)
def test_labels_follow_from_judgements(judgements, expected, left_out):
    assert labels(*judgements) == (expected, left_out)


def test_a_folder_keeps_judgements_and_images_and_a_training_reads_them(tmp_path):
    feedback = Feedback(tmp_path / "feedback")
    kept = feedback.keep("0a", b"first")
    assert feedback.keep("0a", b"first") == kept and open(kept, "rb").read() == b"first"
    hostile = '=cmd|"<b>&,\n\u2028wren'
    feedback.add(judged(kept, "/photos/a, b.jpg", item_label=hostile))
    feedback.add(judged(kept, "/photos/c.jpg", right=False, item_label="robin"))
    again = Feedback(tmp_path / "feedback")
    assert len(again) == 2 and again.labelled_images() == feedback.labelled_images()
    (tmp_path / "labels.csv").write_text(again.to_csv())
    table = table_file.load(None, str(tmp_path / "labels.csv"))
    assert table.label_names == (hostile,) and set(table.paths) == {kept, "/photos/a, b.jpg"}
    assert (tmp_path / "feedback").stat().st_mode & 0o077 == 0


def test_a_damaged_line_is_named_and_names_of_queries_are_no_paths(tmp_path):
    feedback = Feedback(tmp_path)
    feedback.add(judged("q", "a"))
    with open(tmp_path / "judgements.jsonl", "a") as file:
        file.write('{"query": "q"')
    with pytest.raises(DamagedError, match="line 2"):
        Feedback(tmp_path)
    with pytest.raises(InputError, match="letters and digits"):
        feedback.keep("../../x", b"")
