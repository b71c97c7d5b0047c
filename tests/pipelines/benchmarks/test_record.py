"""A benchmark's record: its command and its table."""

import dataclasses
import shlex

from pipelines import benchmark, cli
from pipelines.benchmarks.record import Column, command_of, markdown_table
from pipelines.benchmarks.search import SearchBenchmarkOptions


def test_a_command_names_what_is_not_usual_and_can_be_run_again(tmp_path):
    config = benchmark.BenchmarkConfig(
        what="search", search=SearchBenchmarkOptions(bits=(16, 24), draws=("uniform",), gallery="/a b"), threads=2, json="x.json"
    )
    command = command_of(config)
    assert command == "eet benchmark search --threads 2 --search.bits '[16, 24]' --search.draws '[\"uniform\"]' --search.gallery '/a b'"
    parser = cli.job_parser("benchmark", benchmark.BenchmarkConfig)
    again = cli.read_config(parser, benchmark.BenchmarkConfig, shlex.split(command)[2:])
    assert again == dataclasses.replace(config, json=None)


def test_what_was_not_measured_is_an_empty_place_in_a_table():
    record = {
        "command": "eet benchmark x",
        "machine": {"device": "card", "torch": "2"},
        "timings": [{"a": "b", "c": None}, {"a": "d", "c": 1.25}],
    }
    table = markdown_table(record, (Column("method", "a"), Column("ms", "c", ".1f")))
    assert table == "`eet benchmark x`\n\ncard, torch 2.\n\n| method | ms |\n|---|--:|\n| b |  |\n| d | 1.2 |\n"
