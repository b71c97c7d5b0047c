"""Results of a benchmark as JSON and as a table: figures, machine, versions and command."""

import dataclasses
import json
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from eet.errors import InputError
from eet.storage import read_text, write_text
from pipelines.job.location import with_relative_locations
from pipelines.job.output import changed_flags


class Column(NamedTuple):
    """A column of a table: the heading, the field of a timing, and how a number of it is written (as `format` takes it)."""

    heading: str
    name: str
    number: str = ""

    def shown(self, value: Any) -> str:
        """A value as text; empty for None, which means not measured."""
        return "" if value is None else value if isinstance(value, str) else format(value, self.number)


Machine = dict[str, str | int]


def machine_of(device: torch.device, **more: str | int) -> Machine:
    """The measured device, its driver if it has one, `more`, and versions."""
    cuda: Machine = {}
    if device.type == "cuda":
        cuda = {"driver": _driver(), "cuda": str(torch.version.cuda)}
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        **cuda,
        **more,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _driver() -> str:
    version = Path("/proc/driver/nvidia/version")
    found = re.search(r"(\d+\.\d+(\.\d+)?)\s", version.read_text()) if version.exists() else None
    return found.group(1) if found else "unknown"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine())


def machine_line(machine: Mapping[str, str | int]) -> str:
    return ", ".join(str(value) if name in ("device", "date") else f"{name} {value}" for name, value in machine.items())


def print_rows(columns: Sequence[Column], timings: Sequence[Any], *, heading: bool) -> None:
    """Prints rows of a table, with headings before the first."""
    headings = [column.heading for column in columns]
    rows = [[column.shown(getattr(timing, column.name)) for column in columns] for timing in timings]
    widths = [max(10, *map(len, texts)) for texts in zip(headings, *rows, strict=True)]
    for line in [headings, *rows] if heading else rows:
        print("  ".join(f"{text:>{width}}" for text, width in zip(line, widths, strict=True)), flush=True)


def write_record(path: str, what: str, machine: Machine, config: Any, timings: Sequence[Any]) -> None:
    """Writes all that `markdown_table` shows, and the config, as JSON."""
    record = {
        "what": what,
        "command": command_of(config),
        "machine": machine,
        "config": dataclasses.asdict(with_relative_locations(config)),
        "timings": [dataclasses.asdict(timing) for timing in timings],
    }
    write_text(path, json.dumps(record, indent=1) + "\n")


def read_record(path: str) -> dict[str, Any]:
    """Reads a file that `write_record` wrote. InputError for any other file."""
    try:
        record = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as the figures of a benchmark: {error}") from error
    missing = {"what", "command", "machine", "timings"} - set(record if isinstance(record, dict) else ())
    if missing:
        raise InputError(f"{path} does not hold the figures of a benchmark (no {', '.join(sorted(missing))}): give a file of --json")
    return record


def markdown_table(record: Mapping[str, Any], columns: Sequence[Column]) -> str:
    """Markdown: the command, the machine, and a table of the figures."""
    timings = record["timings"]
    text = [all(isinstance(timing.get(column.name), str | None) for timing in timings) for column in columns]
    lines = [
        f"`{record['command']}`",
        "",
        f"{machine_line(record['machine'])}.",
        "",
        "| " + " | ".join(column.heading for column in columns) + " |",
        "|" + "|".join("---" if left else "--:" for left in text) + "|",
        *("| " + " | ".join(column.shown(timing.get(column.name)) for column in columns) + " |" for timing in timings),
    ]
    return "\n".join(lines) + "\n"


def command_of(config: Any) -> str:
    """The command line of a benchmark: all flags that are not at their default, except the output files.

    A location is shown as it was given, or from the working directory where it lies below it.
    """
    flags = [
        f"--{name} {shlex.quote(value if isinstance(value, str) else json.dumps(value))}"
        for name, value in changed_flags(config).items()
        if name not in ("what", "json")
    ]
    return " ".join(["eet benchmark", config.what, *flags])
