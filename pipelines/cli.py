"""The command line: `eet JOB --flags`, typed dataclasses to flags and YAML, exit codes 0 done, 1 failed, 2 bad arguments."""

import errno
import importlib
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from eet import __version__
from eet.errors import EetError
from pipelines.job.environment import set_environment


@dataclass(frozen=True)
class Job:
    """A job of the command line: `module` contains `run(config)` and the config dataclass `config`."""

    module: str
    config: str
    summary: str


JOBS: dict[str, Job] = {
    "quickstart": Job("pipelines.quickstart", "QuickstartConfig", "everything below, small, on this machine, ending in report.html"),
    "train-teacher": Job("pipelines.train_teacher", "TrainTeacherConfig", "train an unpruned teacher alone, for staged distillation"),
    "distill": Job("pipelines.distill", "DistillConfig", "train a pruned student: joint without --teacher, staged with one"),
    "train-base": Job("pipelines.train_base", "TrainBaseConfig", "train a base model for re-ranking by metric learning"),
    "sweep": Job("pipelines.sweep", "SweepConfig", "many such trainings over a search space: accuracy against cost"),
    "sweep-matching": Job(
        "pipelines.sweep_matching", "SweepMatchingConfig", "many re-rankings of given hits over a search space: quality against time"
    ),
    "encode": Job("pipelines.encode", "EncodeConfig", "images to a gallery of hash codes in Parquet"),
    "index": Job("pipelines.index", "IndexConfig", "the codes of a gallery as files that a search maps into memory"),
    "search": Job("pipelines.search", "SearchConfig", "nearest items of a gallery in Hamming space"),
    "rerank": Job("pipelines.rerank", "RerankConfig", "the first hits in a new order, by matching image regions with optimal transport"),
    "evaluate": Job("pipelines.evaluate", "EvaluateConfig", "mAP, P@k, recall@k, R-precision, MAP@R, under both protocols"),
    "report": Job("pipelines.report", "ReportConfig", "a self-contained HTML page of hits"),
    "benchmark": Job(
        "pipelines.benchmark", "BenchmarkConfig", "measure the encoder, training, search, encoding and matching against their peers"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one job; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] == "--version":
        print(f"eet {__version__}")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    name, *rest = argv
    if name not in JOBS:
        print(f"eet: no job {name!r}; jobs are {', '.join(JOBS)}", file=sys.stderr)
        return 2
    shows_traceback = "--traceback" in rest
    rest = [argument for argument in rest if argument != "--traceback"]
    set_environment()
    module = importlib.import_module(JOBS[name].module)
    parser = job_parser(name, getattr(module, JOBS[name].config))
    try:
        config = read_config(parser, getattr(module, JOBS[name].config), rest)
    except SystemExit as stop:  # argparse has printed its message, or the help
        return int(stop.code or 0)
    problems = config.problems()
    if problems:
        for problem in problems:
            print(f"eet {name}: {_kebab(problem)}", file=sys.stderr)
        return 2
    try:
        module.run(config)
    except KeyboardInterrupt:
        print(f"eet {name}: stopped", file=sys.stderr)
        return 1
    except Exception as error:
        if shows_traceback or not _is_the_users(error):
            traceback.print_exc()
        print(f"eet {name}: {_message(error)}", file=sys.stderr)
        return 1
    return 0


# For example a full disk or a folder without write permission: a traceback would not help.
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def _is_the_users(error: Exception) -> bool:
    """Whether the user can correct the error; otherwise it is a bug in EET, and the traceback is shown."""
    return isinstance(error, EetError) or (isinstance(error, OSError) and error.errno in _REFUSED)


def _message(error: Exception) -> str:
    from eet.storage import without_secrets  # the job has loaded it

    if _is_the_users(error):
        return _kebab(without_secrets(str(error)))
    return without_secrets(f"this is a fault of EET, please report it ({type(error).__name__}: {error})")


def read_config(parser: Any, config_class: type, arguments: Sequence[str]) -> Any:
    """The config object from arguments and --config files."""
    arguments = _with_switches([_underscored(argument) for argument in arguments], switches_of(config_class))
    if arguments and not arguments[0].startswith("-") and hasattr(config_class, "what"):  # `eet benchmark encoder`
        arguments = ["--what", *arguments]
    namespace = parser.parse_args(arguments)
    if hasattr(config_class, "defaults_given"):  # some defaults depend on other options: read again with those
        parser.set_defaults(config_class.defaults_given(namespace))
        namespace = parser.parse_args(arguments)
    values = parser.instantiate(namespace)
    return config_class(**{key: value for key, value in vars(values).items() if key != "config"})


def job_parser(name: str, config_class: type) -> Any:
    from jsonargparse import ActionConfigFile, ArgumentParser

    class KebabParser(ArgumentParser):
        """Shows flags in kebab-case, as users type them."""

        def format_help(self, *given: Any, **options: Any) -> str:
            return _kebab(super().format_help(*given, **options))

        def format_usage(self) -> str:
            return _kebab(super().format_usage())

    parser = KebabParser(prog=f"eet {name}", description=f"{JOBS[name].summary}.", exit_on_error=True, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of options; flags after it override it.")
    parser.add_class_arguments(config_class, as_group=False)
    return parser


def _kebab(text: str) -> str:
    """--tracking_uri -> --tracking-uri, in a text for the user."""
    return re.sub(r"--[a-z][\w.]*", lambda flag: flag[0].replace("_", "-"), text)


def _underscored(argument: str) -> str:
    """--tracking-uri=X -> --tracking_uri=X: hyphen and underscore are the same in a flag's name."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument[2:].partition("=")
    return f"--{flag.replace('-', '_')}{equals}{value}"


def switches_of(config_class: type, prefix: str = "") -> set[str]:
    """Boolean flags of a config dataclass, nested ones with dots: {'resume', 'train.compile'}."""
    names = set()
    for entry in fields(config_class):
        if is_dataclass(entry.type):
            names |= switches_of(entry.type, f"{prefix}{entry.name}.")  # type: ignore[arg-type]
        elif entry.type is bool:
            names.add(f"{prefix}{entry.name}")
    return names


def _with_switches(arguments: list[str], switches: set[str]) -> list[str]:
    """--resume alone -> --resume=true; `--resume false` and `--resume=false` stay."""
    given = []
    for place, argument in enumerate(arguments):
        follower = arguments[place + 1] if place + 1 < len(arguments) else "--"
        alone = argument.startswith("--") and argument[2:] in switches and follower.lower() not in ("true", "false")
        given.append(f"{argument}=true" if alone else argument)
    return given


def _overview() -> str:
    width = max(map(len, JOBS))
    lines = ["usage: eet JOB [--config FILE] [flags]", "", "Fine-grained image retrieval: train, encode, search, evaluate.", "", "jobs:"]
    lines += [f"  {name:<{width}}  {job.summary}" for name, job in JOBS.items()]
    lines += ["", "eet JOB --help lists a job's flags. --traceback shows where a failure arose. eet --version."]
    return "\n".join(lines)
