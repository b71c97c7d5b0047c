"""A bundle's files: a folder with model.safetensors and model.json, for every kind of model."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.fs as pafs
import safetensors.torch
from torch import Tensor

from eet.errors import DamagedError, EetError, InputError
from eet.storage import check_location, local_path, one_line, parsed_json, read_json, remove_leftovers, whole_file, write_text
from eet.vit.remote_bundle import RECORD_FILE, WEIGHTS_FILE, downloaded

T = TypeVar("T")

LARGEST_SIZE = 8192
"""A size up to this number is always plausible, such as an image's."""
STUDENT, BASE_MODEL = "student", "base model"
_WRITTEN_BY = {STUDENT: "`eet distill` or `eet train-teacher`", BASE_MODEL: "`eet train-base` or `eet fit-base`"}


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
    check_location(str(path))
    if "://" in str(path):
        raise InputError(f"{path} is a URI: a model is written into a local folder; give its path, or that of a mounted one")
    folder = os.path.abspath(path)
    for name in (WEIGHTS_FILE, RECORD_FILE):
        remove_leftovers(os.path.join(folder, name))
    with whole_file(pafs.LocalFileSystem(), os.path.join(folder, WEIGHTS_FILE)) as file:
        file.write(safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in weights.items()}))
    write_text(os.path.join(folder, RECORD_FILE), json.dumps(record, indent=2) + "\n")


def is_bundle(path: str | Path) -> bool:
    """Whether there is a whole bundle at `path`: its record is written last."""
    return (Path(path) / RECORD_FILE).is_file()


def bundle_kind(path: str | Path) -> str:
    """The kind of model in the bundle at `path`: STUDENT or BASE_MODEL. InputError where there is no bundle or an unknown kind."""
    kind = _read_record(path, "`eet distill`, `eet train-teacher`, `eet train-base` or `eet fit-base`").get("kind", STUDENT)
    if kind not in _WRITTEN_BY:
        raise InputError(f"{path} holds a {kind}; this program reads a {' and a '.join(_WRITTEN_BY)}: update it")
    return kind


def bundle_files(path: str | Path, *, weights: bool) -> Path:
    """The local folder that holds the files of a bundle. Those of a URI are downloaded into a cache, see `remote_bundle`.

    Args:
        path: a local folder or a URI.
        weights: download the weights too.

    Raises:
        InputError: a URI that cannot be read, or no location.
    """
    local = local_path(str(path))
    return downloaded(str(path), weights=weights) if local is None else Path(local)


def _read_record(path: str | Path, written_by: str) -> dict[str, Any]:
    file = bundle_files(path, weights=False) / RECORD_FILE
    if not file.is_file():
        raise InputError(f"{path} is no model bundle: {os.path.join(path, RECORD_FILE)} is missing. Give a folder that {written_by} wrote")
    values = read_json(str(file), dict[str, Any])
    if not isinstance(values.get("bundle_version"), int) or not isinstance(values.get("kind", STUDENT), str):
        raise DamagedError(f"{file} is damaged: its bundle_version or kind is missing or of another type")
    return values


def read_bundle_values(
    path: str | Path, *, kind: str, version: int, fields: type[T], since: Mapping[str, tuple[int, Any]] | None = None
) -> T:
    """Reads the values of a bundle's record.

    Args:
        path: folder of the bundle.
        kind: STUDENT or BASE_MODEL.
        version: the newest bundle version that this program reads.
        fields: a dataclass of the fields and their types.
        since: name -> (first version that has the field, its value in older bundles).

    Raises:
        InputError: the folder holds no bundle, one of another kind, or of a newer version.
        DamagedError: a field is missing or has another type.
    """
    file, values = os.path.join(path, RECORD_FILE), _read_record(path, _WRITTEN_BY[kind])
    found, written = values["bundle_version"], values.get("kind", STUDENT)
    if written != kind:
        raise InputError(f"{path} holds a {written}, not a {kind}: give a folder that {_WRITTEN_BY[kind]} wrote")
    if found > version:
        raise InputError(f"{file} is of bundle version {found}; this program reads up to {version}: update it")
    for name, (first, older_value) in (since or {}).items():
        if found < first:
            values[name] = older_value
    return parsed_json(json.dumps(values), fields, file)


@contextlib.contextmanager
def described_by(path: str | Path) -> Iterator[None]:
    """Turns the errors of building a network from the record of the bundle at `path` into a DamagedError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except EetError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, AssertionError) as error:
        raise DamagedError(f"{os.path.join(path, RECORD_FILE)} does not describe the weights next to it: {one_line(error)}") from error


def read_bundle_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a bundle by name. InputError where they cannot be read, or hold NaN or infinity."""
    file = bundle_files(path, weights=True) / WEIGHTS_FILE
    try:
        weights = safetensors.torch.load_file(file)
    except Exception as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    broken = [name for name, values in weights.items() if values.is_floating_point() and not bool(values.isfinite().all())]
    if broken:
        raise InputError(
            f"{len(broken)} of the {len(weights)} tensors in {file}, such as {broken[0]}, hold NaN or infinity: the training diverged; "
            "train again with a lower learning rate"
        )
    return weights


def check_sizes(path: str | Path, record: Any, weights: Mapping[str, Tensor]) -> None:
    """DamagedError where a number in a record is larger than any size of its weights can be, before memory is taken for it.

    Args:
        path: folder of the bundle.
        record: a number, or a dict, list or tuple with numbers in it; other values are ignored.
        weights: of the bundle.
    """
    largest = max((size for value in weights.values() for size in value.shape), default=0)

    def check(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                check(str(key), inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                check(name, inner)
        elif isinstance(value, int | float) and value > max(LARGEST_SIZE, largest):
            raise DamagedError(f"{os.path.join(path, RECORD_FILE)} does not describe the weights next to it: {name} is {value}")

    check("", record)


def check_preprocessing(path: str | Path, found: str, recorded: str) -> None:
    """InputError where the digest of the preprocessing is not the recorded one: galleries of the model carry the recorded one."""
    if found != recorded:
        raise InputError(
            f"the preprocessing in {os.path.join(path, RECORD_FILE)} was changed after it was written: digest {found[:12]}, recorded "
            f"{recorded[:12]}. Load the model, change its preprocessing in Python, and save it as a new bundle"
        )


def check_digest(path: str | Path, found: str, recorded: str) -> None:
    """InputError where the digest of the weights is not the recorded one."""
    if found != recorded:
        raise InputError(
            f"{os.path.join(path, WEIGHTS_FILE)} is not what {RECORD_FILE} describes: digest {found[:12]}, recorded {recorded[:12]}"
        )
