"""MLflow: one run for each job, by default in a sqlite file next to the output, or on any server by URI. Only the driver writes to it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eet.errors import InputError
from pipelines.job.output import flat_values

EXPERIMENT = "eet"
PARENT_TAG = "mlflow.parentRunId"  # with this tag MLflow's page shows a run under another
PARAM_LIMIT = 6000  # most characters of a parameter in MLflow


def default_tracking_uri(out: str) -> str:
    """An absolute sqlite file in the folder that holds the output. InputError where the output is remote: then a server must be named."""
    if "://" in out:
        raise InputError(f"--out {out} is remote, so --tracking-uri is needed: name an MLflow server, for example http://HOST:5000")
    return f"sqlite:///{Path(out).absolute().parent / 'mlflow.db'}"


class TrackedRun:
    """One MLflow run. Every call uses its id, so nothing depends on MLflow's global state."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs one point of each metric. MLflow does not allow @ in a name, so P@1 becomes P_at_1."""
        for name, value in metrics.items():
            self.client.log_metric(self.run_id, name.replace("@", "_at_"), float(value), step=step)

    def end_children(self, name: str, status: str) -> None:
        """Ends running child runs called `name` ('%' for any name) whose process died before it could end them."""
        experiment = self.client.get_run(self.run_id).info.experiment_id
        wanted = f"tags.`{PARENT_TAG}` = '{self.run_id}' and attributes.status = 'RUNNING' and attributes.run_name LIKE '{name}'"
        for child in self.client.search_runs([experiment], wanted):
            self.client.set_terminated(child.info.run_id, status)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Logs a file, or a folder with its contents."""
        log = self.client.log_artifacts if Path(path).is_dir() else self.client.log_artifact
        log(self.run_id, str(path), folder)


@contextmanager
def tracked(
    name: str, tracking_uri: str | None, out: str, parameters: Mapping[str, Any], *, parent: str | None = None, run_id: str | None = None
) -> Iterator[TrackedRun]:
    """A run called `name` with the config as parameters; ends FINISHED, FAILED after an error, KILLED when stopped from the keyboard.

    parent: the run under which it is shown (for trials of a sweep). run_id: an earlier run to continue, with its parameters.
    """
    import logging

    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = tracking_uri or default_tracking_uri(out)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            parameters = {}
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment:
            experiment_id = experiment.experiment_id
        else:
            location = None
            if uri.startswith("sqlite:///"):  # next to the database, not in the working directory
                location = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
            experiment_id = client.create_experiment(EXPERIMENT, artifact_location=location)
        run_id = run_id or client.create_run(experiment_id, run_name=name, tags={PARENT_TAG: parent} if parent else {}).info.run_id
    except MlflowException as error:
        raise InputError(f"--tracking-uri {uri}: {error}") from error
    for key, value in flat_values(dict(parameters)).items():
        client.log_param(run_id, key, str(value)[:PARAM_LIMIT])
    status = "FAILED"
    try:
        yield TrackedRun(client, run_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run_id, status)
