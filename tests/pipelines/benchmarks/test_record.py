"""A benchmark's record: its command and its table."""

import dataclasses
import shlex

from pipelines import benchmark, cli
from pipelines.benchmarks.record import Column, command_of, markdown_table, write_record
from pipelines.configs.benchmark import SearchBenchmarkOptions


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


def test_a_command_shows_no_path_of_the_machine_that_need_not_be_there(tmp_path, monkeypatch):
    """Locations stay as they were given; absolute ones become relative where they lie below the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    locations = {
        "runs/gallery": "runs/gallery",
        "../gallery": "../gallery",
        str(tmp_path / "here" / "runs" / "gallery"): "runs/gallery",
        str(tmp_path / "hereabouts"): str(tmp_path / "hereabouts"),
        "s3://bucket/gallery": "s3://bucket/gallery",
    }
    for given, shown in locations.items():
        config = benchmark.BenchmarkConfig(what="search", search=SearchBenchmarkOptions(gallery=given))
        assert command_of(config) == f"eet benchmark search --search.gallery {shown}"
    config = benchmark.BenchmarkConfig(what="tables", results=(str(tmp_path / "here" / "a.json"), "b.json"))
    assert shlex.split(command_of(config))[-1] == '["a.json", "b.json"]'
    config = benchmark.BenchmarkConfig(what="search", search=SearchBenchmarkOptions(gallery=str(tmp_path / "here" / "g")))
    write_record("record.json", "search", {}, config, [])
    assert str(tmp_path) not in (tmp_path / "here" / "record.json").read_text()
