"""The help of a job: its own options first, those of all jobs last, and examples at the end."""

import argparse
from dataclasses import fields, is_dataclass
from typing import Any

from pipelines.job.options import JobOptions

COMMON = "common"
"""The group of the options that many jobs have."""


def groups_of(config_class: Any) -> list[str]:
    """The names that `--help=GROUP` takes: the groups of a job's options, and those of all jobs."""
    return [entry.name for entry in fields(config_class) if is_dataclass(entry.type)] + [COMMON]


def arrange(parser: Any, config_class: Any) -> None:
    """Moves the options of all jobs to the end of the help, leaves out those that the job does not read, and shortens the usage."""
    own, common = parser._optionals, parser.add_argument_group("common options")
    last = {"help", "config", "print_config", *(entry.name for entry in fields(JobOptions))}
    common._group_actions += [action for action in own._group_actions if action.dest in last]
    own._group_actions[:] = [action for action in own._group_actions if action.dest not in last]
    for action in common._group_actions:
        if action.dest in config_class.unused:
            action.help = argparse.SUPPRESS
    first = f" [{config_class.positional.upper()}]" if config_class.positional else ""
    required = "".join(f" --{action.dest} {action.dest.upper()}" for action in own._group_actions if action.required)
    parser.usage = f"{parser.prog}{first}{required} [flags]"


def help_ending(job: str, config_class: Any) -> str:
    """The last lines of the help: how to see less of it, and examples."""
    groups = groups_of(config_class)
    lines = [f"\neet {job} --help=GROUP shows one group of options: {', '.join(groups)}"] if len(groups) > 1 else []
    return "\n".join([*lines, "", "examples:", *(f"  {example}" for example in config_class.examples), ""])


def leave_only(parser: Any, group: str) -> None:
    """Leaves one group of options in the help of a parser."""
    parser.ending = ""
    for section in parser._action_groups:
        names = {action.dest.partition(".")[0] for action in section._group_actions}
        if names != {group} and not (group == COMMON and section.title == "common options"):
            for action in section._group_actions:
                action.help = argparse.SUPPRESS
            section.description = None
