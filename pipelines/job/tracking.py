"""MLflow: one run for each job, by default in a sqlite file next to the output, or on any server by URI. Only the driver writes to it."""

import json
import sqlite3
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from eet.errors import InputError
from eet.storage import check_location, local_path, one_line, write_text
from pipelines.job.network import why_unreachable
from pipelines.job.output import flat_values
from pipelines.job.stopping import stop_signal

EXPERIMENT = "eet"
PARENT_TAG = "mlflow.parentRunId"  # with this tag MLflow's page shows a run under another
SQLITE = "sqlite:///"
ANSWER_S = 10.0
"""Seconds in which a server must answer, and a locked database must become free."""
PARAM_LIMIT = 6000  # most characters of a parameter in MLflow


def default_tracking_uri(out: str) -> str:
    """An absolute sqlite file in the folder that holds the output. InputError where the output is remote: then a server must be named."""
    path = local_path(out)
    if path is None:
        raise InputError(f"--out {out} is remote, so --tracking-uri is needed: name an MLflow server, for example http://HOST:5000")
    return f"{SQLITE}{Path(path).parent / 'mlflow.db'}"


def read_run_id(file: Path) -> str | None:
    """The id of the run that an earlier process of this job began, from a file that `write_run_id` wrote; None without a file."""
    return json.loads(file.read_text())["run"] if file.exists() else None


def write_run_id(file: Path, run: "TrackedRun") -> None:
    """Writes the id of a run, so that a resumed job continues it."""
    write_text(str(file), json.dumps({"run": run.run_id}) + "\n")


class TrackedRun:
    """One MLflow run. Every call uses its id, so nothing depends on MLflow's global state.

    A server may die while the job works. Then one warning is printed and no more is logged: all measures are also in the job's files.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self._lost = False

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs one point of each metric. MLflow does not allow @ in a name, so P@1 becomes P_at_1."""
        for name, value in metrics.items():
            self._call(self.client.log_metric, self.run_id, name.replace("@", "_at_"), float(value), step=step)

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Logs options, nested ones with dots."""
        for key, value in flat_values(dict(parameters)).items():
            self._call(self.client.log_param, self.run_id, key, str(value)[:PARAM_LIMIT])

    def end_children(self, name: str, status: str) -> None:
        """Ends running child runs called `name` ('%' for any name) whose process died before it could end them."""
        self._call(self._end_children, name, status)

    def _end_children(self, name: str, status: str) -> None:
        experiment = self.client.get_run(self.run_id).info.experiment_id
        wanted = f"tags.`{PARENT_TAG}` = '{self.run_id}' and attributes.status = 'RUNNING' and attributes.run_name LIKE '{name}'"
        for child in self.client.search_runs([experiment], wanted):
            self.client.set_terminated(child.info.run_id, status)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Logs a file, or a folder with its contents."""
        log = self.client.log_artifacts if Path(path).is_dir() else self.client.log_artifact
        self._call(log, self.run_id, str(path), folder)

    def end(self, status: str) -> None:
        """Ends the run."""
        self._call(self.client.set_terminated, self.run_id, status)

    def _call(self, function: Callable[..., object], *arguments: Any, **options: Any) -> None:
        if self._lost:
            return
        try:
            function(*arguments, **options)
        except _failures() as error:
            self._lost = True
            print(f"warning: MLflow at {self.client.tracking_uri} was lost ({_reason(error)}); the job goes on without it", file=sys.stderr)


def check_tracking(tracking_uri: str | None, out: str) -> None:
    """InputError where the URI holds credentials, or MLflow cannot write to its file or reach its server.

    It takes seconds; MLflow itself tries for minutes. Jobs call it before long work that precedes `tracked`. Arguments: as for `tracked`.
    """
    uri = tracking_uri or default_tracking_uri(out)
    check_location(uri, "--tracking-uri")
    if (reason := _why_unusable(uri)) is not None:
        raise _unusable(uri, reason)


def _unusable(uri: str, reason: str) -> InputError:
    return InputError(f"MLflow cannot use {uri} ({reason}): mend it, or name another place by --tracking-uri")


def _why_unusable(uri: str) -> str | None:
    parts = urlsplit(uri)
    if uri.startswith(SQLITE):
        return _why_not_written(Path(uri.removeprefix(SQLITE)))
    if parts.scheme in ("http", "https"):
        return _why_silent(uri)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return str(error)
    return why_unreachable(host, port) if host and port else None


def _why_silent(url: str) -> str | None:
    """Why a web server gives no answer; None where it gives any: what it wants is MLflow's business."""
    try:
        urlopen(url, timeout=ANSWER_S).close()
    except HTTPError:
        return None
    except URLError as error:
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, HTTPException) as error:
        return str(error)
    return None


def _why_not_written(path: Path) -> str | None:
    try:
        if not path.exists():
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            with tempfile.TemporaryFile(dir=folder):  # permissions may allow what the system refuses
                return None
        with closing(sqlite3.connect(path, timeout=ANSWER_S, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("CREATE TABLE eet_check (written INTEGER)")
            database.execute("ROLLBACK")
    except (OSError, sqlite3.Error) as error:
        return str(error)
    return None


def _failures() -> tuple[type[Exception], ...]:
    """What MLflow raises where its server or file fails."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError


def _reason(error: Exception) -> str:
    return one_line(error)[:300]


@contextmanager
def tracked(
    name: str, tracking_uri: str | None, out: str, parameters: Mapping[str, Any], *, parent: str | None = None, run_id: str | None = None
) -> Iterator[TrackedRun]:
    """A run called `name` with the config as parameters; ends FINISHED, FAILED after an error, KILLED when stopped by a signal.

    parent: the run under which it is shown (for trials of a sweep). run_id: an earlier run to continue, with its parameters; where it is
    not known (--tracking-uri is another one), a new run begins.
    """
    import logging

    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    import mlflow

    uri = tracking_uri or default_tracking_uri(out)
    check_tracking(uri, out)
    try:
        if uri.startswith(SQLITE):
            Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        client = mlflow.MlflowClient(tracking_uri=uri)
        run_id, is_new = _begun(client, name, uri, parent, run_id)
    except _failures() as error:
        raise _unusable(uri, _reason(error)) from error
    run = TrackedRun(client, run_id)
    if is_new:
        run.log_parameters(parameters)
    status = "FINISHED"
    try:
        yield run
    except BaseException as error:
        status = "KILLED" if stop_signal(error) else "FAILED"
        raise
    finally:
        run.end(status)


def _begun(client: Any, name: str, uri: str, parent: str | None, run_id: str | None) -> tuple[str, bool]:
    """The id of the run that is continued or started, and whether it is new."""
    from mlflow.exceptions import MlflowException

    if run_id is not None:
        with suppress(MlflowException):
            client.update_run(run_id, status="RUNNING")
            return run_id, False
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        experiment_id = experiment.experiment_id
    else:
        location = None
        if uri.startswith(SQLITE):  # next to the database, not in the working directory
            location = (Path(uri.removeprefix(SQLITE)).absolute().parent / "mlartifacts").as_uri()
        experiment_id = client.create_experiment(EXPERIMENT, artifact_location=location)
    return client.create_run(experiment_id, run_name=name, tags={PARENT_TAG: parent} if parent else {}).info.run_id, True
