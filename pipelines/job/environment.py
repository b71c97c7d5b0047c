"""Environment variables that a job and its workers run with."""

import os
import warnings

from eet.options.threads import SLEEPING_THREADS


def set_environment() -> None:
    """Disables telemetry and verbose output of libraries, and lets waiting threads sleep. Variables that are already set are kept."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # seconds, not minutes, until a lost server is noticed
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DATA_LOG_LEVEL": "ERROR",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would end as if all trials were done
        "RAY_AIR_NEW_OUTPUT": "0",  # Tune's newer output prints boxes at any verbosity
        "RAY_COLOR_PREFIX": "0",
        "RAY_raylet_start_wait_time_s": "120",  # for a driver to find its node; Ray's 10 are too few on a busy machine
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "GIT_PYTHON_REFRESH": "quiet",
        "ALEMBIC_LOG_LEVEL": "WARNING",
        **SLEEPING_THREADS,
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
