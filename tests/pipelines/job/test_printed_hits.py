"""The table of hits on the terminal."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from search_by_loop import hand_made
from tied_gallery import tied_bits

from eet.gallery import HITS_SCHEMA
from pipelines.job import printed_hits
from pipelines.job.printed_hits import hits_table, item_uris

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    labels = [None if row == 0 else row % 2 for row in range(60)]
    return hand_made(tmp_path_factory.mktemp("printed") / "gallery", tied_bits(), labels, names=("wren", "a\x1b[2J"))


def hits_of(*rows: tuple) -> pa.Table:
    names = HITS_SCHEMA.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=HITS_SCHEMA)


HITS = (
    ("q.jpg", 1, "item002", 9, 0.9, None, 0),
    ("q.jpg", 2, "item000", 10, 0.8, None, None),
    ("r.jpg", 1, "item003", 0, 1.0, None, 1),
)


def test_each_hit_has_a_line_with_rank_distance_label_and_location(gallery):
    lines = [line.split() for line in hits_table(hits_of(*HITS), gallery)]
    heading = ["rank", "distance", "label", "uri"]
    assert lines[:4] == [["query", "q.jpg"], heading, ["1", "9", "wren", "item002"], ["2", "10", "item000"]]
    assert lines[4:] == [["query", "r.jpg"], heading, ["1", "0", "a\N{REPLACEMENT CHARACTER}[2J", "item003"]]
    assert item_uris(hits_of(*HITS), gallery) == ["item002", "item000", "item003"]


def test_a_search_by_embedding_shows_the_cosine(gallery):
    assert [line.split()[1] for line in hits_table(hits_of(*HITS[:2]), gallery, by_embedding=True)][1:] == ["cosine", "0.900", "0.800"]


def test_items_without_labels_have_no_such_column(gallery):
    assert "label" not in " ".join(hits_table(hits_of(HITS[1]), gallery))


def test_of_many_queries_the_first_are_shown_and_the_others_counted(gallery, monkeypatch):
    many = hits_of(*((f"{query}.jpg", rank, "item002", 3, 0.0, None, 0) for query in range(4) for rank in (1, 2, 3)))
    monkeypatch.setattr(printed_hits, "MOST_ROWS", 7)
    lines = list(hits_table(many, gallery))
    assert [line for line in lines if line.startswith("query")] == ["query 0.jpg", "query 1.jpg"] and len(lines) == 11
    assert lines[-1] == "2 more queries with 6 hits"
    monkeypatch.setattr(printed_hits, "MOST_ROWS", 2)  # the first query is whole
    lines = list(hits_table(many.slice(0, 6), gallery))
    assert len(lines) == 6 and lines[-1] == "1 more query with 3 hits"
    assert list(hits_table(many.slice(0, 0), gallery)) == []


def test_a_reader_that_has_enough_is_no_failure():
    code = "from pipelines.job.printed_hits import print_for_pipe; print_for_pipe(map(str, range(100_000)))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as printing:
        assert printing.stdout is not None and printing.stderr is not None
        assert printing.stdout.readline() == b"0\n"
        printing.stdout.close()
        assert (printing.stderr.read(), printing.wait(timeout=60)) == (b"", 0)


def test_credentials_that_an_older_gallery_holds_are_not_printed(gallery, monkeypatch):
    """M5."""
    uris = pa.table({"uri": ["s3://KEY:SECRET@bucket/a.jpg", "s3://bucket/b.jpg"]})
    monkeypatch.setattr(type(gallery), "rows", lambda *args, **options: uris)
    assert item_uris(hits_of(*HITS[:2]), gallery) == ["(credentials, not shown)", "s3://bucket/b.jpg"]
