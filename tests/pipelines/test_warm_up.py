"""`eet warm-up` prints a line for each family of loops."""

import re

from eet.retrieval import warm_up as families
from pipelines.cli import main


def test_each_family_has_a_line_with_its_seconds(monkeypatch, capsys):
    called = []
    for name in families.FAMILIES:
        monkeypatch.setitem(families.FAMILIES, name, lambda name=name: called.append(name))
    assert main(["warm-up"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert called == list(families.FAMILIES) and [line.split("  ")[0] for line in lines] == called
    assert all(re.search(r" \d+\.\d s$", line) for line in lines) and last.startswith("kept in ")


def test_a_dry_run_compiles_nothing(monkeypatch, capsys):
    monkeypatch.setitem(families.FAMILIES, "Hamming search", lambda: 1 / 0)
    assert main(["warm-up", "--dry-run"]) == 0
    assert "nothing was started" in capsys.readouterr().out
