"""The folder a job writes into, and the resolved config beside it."""

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml


def config_values(config: Any) -> dict[str, Any]:
    """A config dataclass as plain values, nested as its flags are."""
    assert is_dataclass(config) and not isinstance(config, type)
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def flat_values(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'data': {'name': 'cub'}} -> {'data.name': 'cub'}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flat_values(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def config_path(out: str | Path) -> Path:
    """config.yaml in an output folder, NAME.config.yaml beside an output file."""
    out = Path(out)
    return out.with_name(f"{out.stem}.config.yaml") if out.suffix == ".parquet" else out / "config.yaml"


def write_config(out: str | Path, config: Any) -> None:
    """Writes the resolved config beside the output, so that `--config` on it repeats the job."""
    path = config_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config_values(config), sort_keys=False))


def read_written_config(out: str | Path) -> dict[str, Any] | None:
    """The resolved config beside an output, or None where there is none."""
    path = config_path(out)
    return yaml.safe_load(path.read_text()) if path.is_file() else None
