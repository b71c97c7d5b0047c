"""A benchmark measures what it says, and notices answers that differ. Its figures are nobody's test."""

import pytest

from pipelines import benchmark
from pipelines.cli import main
from pipelines.configs.benchmark import SearchBenchmarkOptions

SMALL = SearchBenchmarkOptions(sizes=(500, 3000), bits=(16, 24), draws=("clustered", "uniform"), queries=5, k=7, flip_share=0.1)


def test_a_dry_run_measures_nothing(capsys):
    assert benchmark.run(benchmark.BenchmarkConfig(what="search", search=SMALL, dry_run=True)) == []
    assert "8 cases" in capsys.readouterr().out


def test_figures_that_are_none_are_refused(tmp_path, capsys):
    assert main(["benchmark", "tables"]) == 2 and "--results is missing" in capsys.readouterr().err
    (tmp_path / "a.json").write_text("{}")
    for file, message in ((tmp_path / "a.json", "does not hold the figures"), (tmp_path / "b.json", "cannot be read as the figures")):
        with pytest.raises(ValueError, match=message):
            benchmark.run(benchmark.BenchmarkConfig(what="tables", results=(str(file),)))
