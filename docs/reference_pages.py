"""Pages of the site that are made when it is built: the command line from the configs of the jobs, the Python API from `__all__`.

A hook of mkdocs, see mkdocs.yml.
"""

import ast
import html
import importlib
import inspect
import re
from argparse import SUPPRESS
from dataclasses import fields
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]

# What `import eet` gives, by the module that defines it; griffe does not follow the lazy attributes of eet/__init__.py.
VERBS = ("load_model", "adapt", "encode", "open_gallery", "search", "rerank", "evaluate", "Hits", "Gallery", "Evaluation")

PACKAGES = (
    "datasets",
    "distillation",
    "embedding",
    "figures",
    "gallery",
    "hashing",
    "images",
    "matching",
    "metrics",
    "search",
    "storage",
    "training",
    "vit",
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the pages of the Python API in the navigation."""
    pages = ["reference/python/eet.md", "reference/python/errors.md", *(f"reference/python/{name}.md" for name in PACKAGES)]
    (reference,) = (part["Reference"] for part in config.nav if "Reference" in part)
    for entry in reference:
        if isinstance(entry, dict) and "Python" in entry:
            entry["Python"] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {"reference/cli.md": command_line(), "reference/python/eet.md": verbs(), "reference/python/errors.md": errors()}
    pages |= {f"reference/python/{name}.md": package(name) for name in PACKAGES}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def command_line() -> str:
    """One section for each job, with a table of its flags for each group of options."""
    from pipelines.cli import JOBS, job_parser
    from pipelines.job.options import JobOptions

    common = {entry.name for entry in fields(JobOptions)}

    lines = [
        "# Command line",
        "",
        "`eet JOB [flags]`, or `python -m pipelines JOB [flags]` in a checkout. `eet JOB --help` shows the same flags.",
        "",
        "Every job also takes `--config FILE`, a YAML file of options, and `--print-config`, which prints one. Flags after `--config` win.",
        "In a YAML file the names have underscores: `rows_per_part: 4096`. A switch such as `--resume` needs no value.",
        "`--traceback` shows where a failure arose. Exit codes: 0 done, 1 failed, 2 wrong arguments.",
        "`eet JOB --help=GROUP` shows one group of flags, such as `--help=train`. The line",
        '`eval "$(eet --print-completion bash)"` in `~/.bashrc` (or `zsh` in `~/.zshrc`) lets the Tab key complete jobs and flags.',
        "",
        "| job | what it does |",
        "|---|---|",
        *(f"| [`eet {name}`](#eet-{name}) | {job.summary} |" for name, job in JOBS.items()),
        "",
    ]
    for name, job in JOBS.items():
        config_class = job.config_class
        about = kebab(inspect.cleandoc(config_class.__doc__ or "").partition("\n\nAttributes:")[0])
        lines += [f"## eet {name}", "", about, "", "```bash", *config_class.examples, "```", ""]
        for group in job_parser(name, config_class)._action_groups:
            flags = [action for action in group._group_actions if type(action).__name__ == "ActionTypeHint" and action.help != SUPPRESS]
            if not flags:
                continue
            if group.title != "options":
                lines += [f"**{one_line(group.title)}**", ""]
            lines += ["| flag | values | default | what it does |", "|---|---|---|---|"]
            lines += [flag_row(action) for action in sorted(flags, key=lambda action: (action.dest in common, not action.required))]
            lines += [""]
    return "\n".join(lines)


def flag_row(action: Any) -> str:
    (flag,) = (name for name in action.option_strings if name.startswith("--"))
    if action.required:
        default = "required"
    elif action.default is None:
        default = ""
    else:
        default = f"`{value_text(action.default)}`"
    return f"| `{kebab(flag)}` | {cell(type_text(action._typehint))} | {default} | {cell(kebab(action.help or ''))} |"


def value_text(value: Any) -> str:
    """A default as a user types it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return str(value) if value != "" else "''"


def type_text(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", None) else str(hint)
    text = re.sub(r"typing\.|NoneType", "", text)
    if choices := re.search(r"Literal\[([^]]*)\]", text):
        return choices[1].replace("'", "").replace(", ", ", ")
    text = re.sub(r"Optional\[(.*)\]", r"\1", text).replace(" | None", "").replace(", ...", "")
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "switch", "tuple[int]": "whole numbers"}
    names |= {"tuple[float]": "numbers", "tuple[str]": "texts"}
    return names.get(text, "mapping" if text.startswith("dict") else text)


def cell(text: str) -> str:
    """Text of one cell of a table; what would be read as Markdown or HTML is escaped, code stays code."""
    parts = re.split(r"(`[^`]*`)", one_line(text).replace("|", "\\|"))
    return "".join(part if part.startswith("`") else re.sub(r"([*_])", r"\\\1", html.escape(part, quote=False)) for part in parts)


def one_line(text: str) -> str:
    return " ".join(text.split())


def kebab(text: str) -> str:
    """--tracking_uri -> --tracking-uri, as `eet JOB --help` shows it."""
    return re.sub(r"--[a-z][\w.]*", lambda flag: flag[0].replace("_", "-"), text)


def verbs() -> str:
    from eet import _MODULE_OF

    lines = ["# eet", "", "What `import eet` gives. The [guide](../../guides/python.md) shows it at work.", ""]
    for name in VERBS:
        module = _MODULE_OF.get(name, "eet.retrieval.verbs")
        lines += [f"::: {module}.{name}", "    options:", f'      heading: "eet.{name}"', f'      toc_label: "{name}"', ""]
    return "\n".join(lines)


def errors() -> str:
    names = [node.name for node in ast.parse((ROOT / "eet/errors.py").read_text()).body if isinstance(node, ast.ClassDef)]
    lines = ["# eet.errors", "", importlib.import_module("eet.errors").__doc__ or "", ""]
    return "\n".join(lines + [f"::: eet.errors.{name}\n" for name in names])


def package(name: str) -> str:
    """The public functions, classes and dictionaries of a package, in the order of its `__all__`; not its plain numbers and schemas, and
    not what the page of `eet` shows.
    """
    module = importlib.import_module(f"eet.{name}")
    public = {name: getattr(module, name) for name in module.__all__ if name not in VERBS}
    shown = [name for name, value in public.items() if callable(value) or isinstance(value, dict)]
    lines = [f"# eet.{name}", "", module.__doc__ or "", ""]
    return "\n".join(lines + [f"::: eet.{name}.{shown_name}\n" for shown_name in shown])
