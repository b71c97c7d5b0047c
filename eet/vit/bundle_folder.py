"""A bundle's files: a folder with model.safetensors and model.json, for every kind of model."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from eet.errors import InputError

WEIGHTS_FILE, RECORD_FILE = "model.safetensors", "model.json"
STUDENT, BASE_MODEL = "student", "base model"
_WRITTEN_BY = {STUDENT: "`eet distill` or `eet train-teacher`", BASE_MODEL: "`eet train-base`"}


def tensors_digest(header: Any, weights: Mapping[str, Tensor]) -> str:
    """sha256 over plain values (as JSON) and over weights: names, dtypes, shapes and values."""
    digest = hashlib.sha256(json.dumps(header).encode())
    for name, value in sorted(weights.items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_bundle_folder(path: str | Path, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Writes both files into the folder `path`, created if missing; the record last, so that a folder with model.json is complete."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{WEIGHTS_FILE}.writing"
    safetensors.torch.save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)
    temporary.replace(folder / WEIGHTS_FILE)
    temporary = folder / f"{RECORD_FILE}.writing"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(folder / RECORD_FILE)


def is_bundle(path: str | Path) -> bool:
    """Whether there is a whole bundle at `path`: its record is written last."""
    return (Path(path) / RECORD_FILE).is_file()


def bundle_kind(path: str | Path) -> str:
    """The kind of model in the bundle at `path`: STUDENT or BASE_MODEL. InputError where there is no bundle or an unknown kind."""
    kind = _read_record(path, "`eet distill`, `eet train-teacher` or `eet train-base`").get("kind", STUDENT)
    if kind not in _WRITTEN_BY:
        raise InputError(f"{path} holds a {kind}; this program reads a {' and a '.join(_WRITTEN_BY)}: update it")
    return kind


def _read_record(path: str | Path, written_by: str) -> dict[str, Any]:
    file = Path(path) / RECORD_FILE
    if not file.is_file():
        raise InputError(f"{path} is no model bundle: {file} is missing. Give a folder that {written_by} wrote")
    try:
        values = json.loads(file.read_text())
        int(values["bundle_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    return values


def read_bundle_values(
    path: str | Path, *, kind: str, version: int, fields: Sequence[str], since: Mapping[str, tuple[int, Any]] | None = None
) -> dict[str, Any]:
    """Reads the values of a bundle's record.

    Args:
        path: folder of the bundle.
        kind: STUDENT or BASE_MODEL.
        version: the newest bundle version that this program reads.
        fields: required fields.
        since: name -> (first version that has the field, its value in older bundles).

    Raises:
        InputError: the folder holds no bundle, one of another kind, a newer version, or fields are missing.
    """
    file, values = Path(path) / RECORD_FILE, _read_record(path, _WRITTEN_BY[kind])
    found, written = int(values["bundle_version"]), values.get("kind", STUDENT)
    if written != kind:
        raise InputError(f"{path} holds a {written}, not a {kind}: give a folder that {_WRITTEN_BY[kind]} wrote")
    if found > version:
        raise InputError(f"{file} is of bundle version {found}; this program reads up to {version}: update it")
    for name, (first, older_value) in (since or {}).items():
        if found < first:
            values[name] = older_value
    missing = [name for name in fields if name not in values]
    if missing:
        raise InputError(f"{file} cannot be read: it lacks {missing}")
    return values


def read_bundle_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a bundle by name. InputError where they cannot be read."""
    file = Path(path) / WEIGHTS_FILE
    try:
        return safetensors.torch.load_file(file)
    except Exception as error:
        raise InputError(f"{file} cannot be read: {error}") from error


def check_digest(path: str | Path, found: str, recorded: str) -> None:
    """InputError where the digest of the weights is not the recorded one."""
    if found != recorded:
        raise InputError(f"{Path(path) / WEIGHTS_FILE} is not what {RECORD_FILE} describes: digest {found[:12]}, recorded {recorded[:12]}")
