"""The command line: `eet JOB --flags`, typed dataclasses to flags and YAML.

Exit codes: 0 done, 1 failed, 2 bad arguments, 130 and 143 stopped by SIGINT (Ctrl-C) and SIGTERM.
"""

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

from eet import __version__
from pipelines.job.argument_errors import argument_problem
from pipelines.job.environment import set_environment
from pipelines.job.errors import is_the_users
from pipelines.job.help import arrange, groups_of, help_ending, leave_only
from pipelines.job.stopping import stop_signal, working


@dataclass(frozen=True)
class Job:
    """A job of the command line: `pipelines.MODULE` contains `run(config)`, and `pipelines.configs.MODULE` the dataclass `config`."""

    module: str
    config: str
    summary: str

    @property
    def config_class(self) -> Any:
        """The dataclass of the options. It loads in a moment, and the job, which needs torch, Ray and more, in seconds."""
        return getattr(importlib.import_module(f"pipelines.configs.{self.module}"), self.config)

    def load(self) -> Callable[[Any], Any]:
        """Loads the job, which takes seconds, and returns what runs it."""
        run: Callable[[Any], Any] = importlib.import_module(f"pipelines.{self.module}").run
        return run


JOBS: dict[str, Job] = {
    "quickstart": Job("quickstart", "QuickstartConfig", "everything below, small, on this machine, ending in report.html"),
    "train-teacher": Job("train_teacher", "TrainTeacherConfig", "train an unpruned teacher alone, for staged distillation"),
    "distill": Job("distill", "DistillConfig", "train a pruned student: joint without --teacher, staged with one"),
    "train-base": Job("train_base", "TrainBaseConfig", "train a base model for re-ranking by metric learning"),
    "fit-base": Job("fit_base", "FitBaseConfig", "a base model fitted to images without training or labels, for places"),
    "sweep": Job("sweep", "SweepConfig", "many such trainings over a search space: accuracy against cost"),
    "sweep-matching": Job(
        "sweep_matching", "SweepMatchingConfig", "many re-rankings of given hits over a search space: quality against time"
    ),
    "encode": Job("encode", "EncodeConfig", "images to a gallery of hash codes in Parquet"),
    "index": Job("index", "IndexConfig", "the codes of a gallery as files that a search maps into memory"),
    "export": Job("export", "ExportConfig", "a gallery or a model in the files of another program"),
    "search": Job("search", "SearchConfig", "nearest items of a gallery, by code or embedding"),
    "rerank": Job("rerank", "RerankConfig", "the first hits in a new order, by matching image regions with optimal transport"),
    "evaluate": Job("evaluate", "EvaluateConfig", "mAP, P@k, recall@k, R-precision, MAP@R, under both protocols"),
    "report": Job("report", "ReportConfig", "a self-contained HTML page of hits"),
    "serve": Job("serve", "ServeConfig", "a search page and a JSON API over a gallery"),
    "benchmark": Job("benchmark", "BenchmarkConfig", "measure the encoder, training, search, encoding and matching against their peers"),
    "warm-up": Job("warm_up", "WarmUpConfig", "compile the loops of search and matching once, for all later jobs"),
    "doctor": Job("doctor", "DoctorConfig", "versions, devices, and checks of what jobs need, for a bug report"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one job; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] == "--version":
        print(f"eet {__version__}")
        return 0
    if argv and argv[0] == "--print-completion":
        return _print_completion(argv[1:])
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
    job = JOBS[name]
    if problem := _secret_argument(rest):
        print(f"eet {name}: {problem}", file=sys.stderr)
        return 2
    for argument in rest:
        if argument.startswith("--help="):
            return _print_group(name, job.config_class, argument.partition("=")[2])
    parser = job_parser(name, job.config_class)
    try:
        config = read_config(parser, job.config_class, rest)
    except SystemExit as stop:  # argparse has printed its message, or the help
        return int(stop.code or 0)
    from pipelines.job.location import location_problems
    from pipelines.job.options import number_problems

    problems = location_problems(config) or number_problems(config) or config.problems()
    if problems:
        for problem in problems:
            print(f"eet {name}: {_kebab(problem)}", file=sys.stderr)
        return 2
    run = job.load()  # outside of `working`, so that a signal ends the program at once: a library that is half loaded might swallow it
    try:
        with working(f"eet {name}"):
            run(config)
    except BaseException as error:
        if (stopped_by := stop_signal(error)) is not None:
            print(f"eet {name}: stopped by {stopped_by.name}{_how_to_go_on(config)}", file=sys.stderr)
            return 128 + stopped_by
        if not isinstance(error, Exception):
            raise
        if shows_traceback or not is_the_users(error):
            traceback.print_exc()
        print(f"eet {name}: {_message(error)}", file=sys.stderr)
        return 1
    return 0


def _print_completion(shells: list[str]) -> int:
    from pipelines.job.completion import SHELLS, completion

    if len(shells) != 1 or shells[0] not in SHELLS:
        print(f"eet --print-completion {' '.join(shells)}: use one of {', '.join(SHELLS)}", file=sys.stderr)
        return 2
    print(completion(shells[0], {name: job.config_class for name, job in JOBS.items()}), end="")
    return 0


def _how_to_go_on(config: Any) -> str:
    if hasattr(config, "resume"):
        return "; continue with --resume"
    return "; continue with the same command" if hasattr(config, "mode") else ""


def _secret_argument(arguments: Sequence[str]) -> str | None:
    """A problem where an argument holds credentials: the errors of the parser would repeat it."""
    if not any("://" in argument for argument in arguments):
        return None
    from eet.storage import secret_in  # loads pyarrow

    for before, argument in zip(["", *arguments], arguments, strict=False):
        if problem := secret_in(argument):
            flag = argument.partition("=")[0] if argument.startswith("--") else before if before.startswith("--") else "an argument"
            return f"{_kebab(flag)}: {problem}"
    return None


def _message(error: Exception) -> str:
    if is_the_users(error):
        return _kebab(str(error))
    return f"this is a fault of EET, please report it ({type(error).__name__}: {error})"


def read_config(parser: Any, config_class: Any, arguments: Sequence[str]) -> Any:
    """The config object from arguments and --config files."""
    arguments = _with_switches([_underscored(argument) for argument in arguments], switches_of(config_class))
    if arguments and not arguments[0].startswith("-") and config_class.positional:  # `eet benchmark encoder`
        arguments = [f"--{config_class.positional}", *arguments]
    parser.given = arguments
    namespace = parser.parse_args(arguments)
    if hasattr(config_class, "defaults_given"):  # some defaults depend on other options: read again with those
        parser.set_defaults(config_class.defaults_given(namespace))
        namespace = parser.parse_args(arguments)
    values = parser.instantiate(namespace)
    return config_class(**{key: value for key, value in vars(values).items() if key != "config"})


def job_parser(name: str, config_class: Any) -> Any:
    """The parser of a job's arguments."""
    from jsonargparse import ActionConfigFile, ArgumentParser

    class KebabParser(ArgumentParser):
        """Shows flags in kebab-case, as users type them, and errors as one sentence."""

        given: Sequence[str] = ()
        ending = help_ending(name, config_class)

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            problem = _kebab(argument_problem(message, config_class, self.given))
            self.exit(2, f"eet {name}: {problem} (eet {name} --help)\n")

        def format_help(self, *given: Any, **options: Any) -> str:
            return _kebab(super().format_help(*given, **options) + self.ending)

        def format_usage(self) -> str:
            return _kebab(super().format_usage())

    parser = KebabParser(prog=f"eet {name}", description=f"{JOBS[name].summary}.", exit_on_error=True, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of options; flags after it override it.")
    parser.add_class_arguments(config_class, as_group=False)
    arrange(parser, config_class)
    return parser


def _print_group(name: str, config_class: Any, group: str) -> int:
    """Prints the help of one group of a job's options; returns the exit code."""
    groups = groups_of(config_class)
    if group not in groups:
        nearest = get_close_matches(group, groups, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        print(f"eet {name}: --help={group}: there is no such group; use one of {', '.join(groups)}{hint}", file=sys.stderr)
        return 2
    parser = job_parser(name, config_class)
    leave_only(parser, group)
    print(parser.format_help(), end="")
    return 0


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
    lines += [
        "",
        "eet JOB --help lists a job's flags with examples, and eet JOB --help=GROUP those of one group, such as --help=train.",
        "--traceback shows where a failure arose. eet --version. eet --print-completion bash|zsh: jobs and flags by the Tab key.",
    ]
    return "\n".join(lines)
