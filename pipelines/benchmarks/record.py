"""What a benchmark leaves: figures, with the machine, the versions and the command beside them, as JSON and as a table."""

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
from pipelines.job.location import with_relative_locations
from pipelines.job.output import changed_flags


class Column(NamedTuple):
    """A column of a table: the heading, the field of a timing, and how a number of it is written (as `format` takes it)."""

    heading: str
    name: str
    number: str = ""

    def shown(self, value: Any) -> str:
        """A value as text; nothing for None, which was not measured."""
        return "" if value is None else value if isinstance(value, str) else format(value, self.number)


Machine = dict[str, str | int]


def machine_of(device: torch.device, **more: str | int) -> Machine:
    """The device that is measured, its driver where it has one, and versions; `more` comes between."""
    cuda: Machine = {}
    if device.type == "cuda":
        cuda = {"driver": _driver(), "cuda": str(torch.version.cuda)}
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else _cpu_name(),
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


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine())


def machine_line(machine: Mapping[str, str | int]) -> str:
    return ", ".join(str(value) if name in ("device", "date") else f"{name} {value}" for name, value in machine.items())


def print_rows(columns: Sequence[Column], timings: Sequence[Any], *, heading: bool) -> None:
    """Rows of a table as soon as they are known, under headings where they are the first."""
    headings = [column.heading for column in columns]
    rows = [[column.shown(getattr(timing, column.name)) for column in columns] for timing in timings]
    widths = [max(10, *map(len, texts)) for texts in zip(headings, *rows, strict=True)]
    for line in [headings, *rows] if heading else rows:
        print("  ".join(f"{text:>{width}}" for text, width in zip(line, widths, strict=True)), flush=True)


def write_record(path: str, what: str, machine: Machine, config: Any, timings: Sequence[Any]) -> None:
    """JSON of all that `markdown_table` shows, and the config beside it."""
    record = {
        "what": what,
        "command": command_of(config),
        "machine": machine,
        "config": dataclasses.asdict(with_relative_locations(config)),
        "timings": [dataclasses.asdict(timing) for timing in timings],
    }
    Path(path).write_text(json.dumps(record, indent=1) + "\n")


def read_record(path: str) -> dict[str, Any]:
    """ValueError where the file is none that `write_record` wrote."""
    try:
        record = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as the figures of a benchmark: {error}") from error
    missing = {"what", "command", "machine", "timings"} - set(record if isinstance(record, dict) else ())
    if missing:
        raise InputError(f"{path} does not hold the figures of a benchmark (no {', '.join(sorted(missing))}): give a file of --json")
    return record


def markdown_table(record: Mapping[str, Any], columns: Sequence[Column]) -> str:
    """The command, where it ran, and the figures."""
    timings = record["timings"]
    text = [all(isinstance(timing[column.name], str) for timing in timings) for column in columns]
    lines = [
        f"`{record['command']}`",
        "",
        f"{machine_line(record['machine'])}.",
        "",
        "| " + " | ".join(column.heading for column in columns) + " |",
        "|" + "|".join("---" if left else "--:" for left in text) + "|",
        *("| " + " | ".join(column.shown(timing[column.name]) for column in columns) + " |" for timing in timings),
    ]
    return "\n".join(lines) + "\n"


def command_of(config: Any) -> str:
    """The command line of a benchmark: every flag that is not at its default, but for where the figures go.

    A location is shown as it was given, or from the working directory where it lies below it.
    """
    flags = [
        f"--{name} {shlex.quote(value if isinstance(value, str) else json.dumps(value))}"
        for name, value in changed_flags(config).items()
        if name not in ("what", "json")
    ]
    return " ".join(["eet benchmark", config.what, *flags])
