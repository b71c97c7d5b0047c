"""The description of a gallery, `manifest.json`; it is written when the last part is done."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from eet.errors import InputError
from eet.gallery.parts import SCHEMA_VERSION, Plans
from eet.gallery.schema import gallery_schema
from eet.options.choices import Precision, VectorForm
from eet.storage import exists, join_location, parsed_json, resolve, whole_file

MANIFEST_NAME = "manifest.json"
LATER_FIELDS = ("jpegs_on", "mass", "has_hash", "embedding_dtype", "positions")
"""Options that came after the first release; a manifest or job without them has their defaults."""
READ_VERSIONS = (1, 2, SCHEMA_VERSION)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of `manifest.json`: how a gallery was encoded, and what it holds.

    Attributes:
        model_digest: of the model that encoded the gallery; queries of another model are refused.
        preprocessing_digest: of its preprocessing.
        precision: of the encoding: auto, fp32 or bf16.
        jpegs_on: where ordinary JPEGs were decoded, cpu or gpu.
        mass: source of the tokens' mass, importance or rollout.
        num_bits: length of a code.
        has_hash: whether rows have the real-valued hash.
        positions: whether rows say where their image was taken, in the columns of `eet.gallery.schema.PLACE_FIELDS`.
        token_shape: (K, D) or None.
        token_dtype: how tokens are stored, a name in `eet.hashing.quantisation.VectorForm`; None without tokens.
        embedding_dim: D or None.
        embedding_dtype: how the embedding is stored.
        label_names: the name of label i at index i, or None.
        num_rows: all rows.
        num_ok: rows with a code.
        errors: status -> number of rows, bad rows only.
        num_parts: the parts are 0 .. num_parts - 1.
        rows_per_part: rows of every part except the last, and the last before each append.
        inputs: descriptions of the encoded images, as the user gave them.
        plans: first part and digest of each encode job, see `eet.gallery.parts`; every reader checks that a part has its digest.
    """

    model_digest: str
    preprocessing_digest: str
    num_bits: int
    num_rows: int
    num_ok: int
    num_parts: int
    rows_per_part: int
    token_shape: tuple[int, int] | None = None
    token_dtype: VectorForm | None = None
    embedding_dim: int | None = None
    label_names: tuple[str, ...] | None = None
    errors: dict[str, int] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    precision: Precision = "auto"
    jpegs_on: str = "cpu"
    mass: str = "importance"
    has_hash: bool = False
    positions: bool = False
    embedding_dtype: VectorForm = "float16"
    plans: Plans = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def schema(self) -> pa.Schema:
        """The columns of every part."""
        return gallery_schema(
            num_bits=self.num_bits,
            token_shape=self.token_shape,
            embedding_dim=self.embedding_dim,
            has_hash=self.has_hash,
            positions=self.positions,
            token_form=self.token_dtype or "float16",
            embedding_form=self.embedding_dtype,
        )

    def to_json(self) -> str:
        """Indented JSON, the same text for equal manifests. Fields that came later are left out at their defaults."""
        values = dataclasses.asdict(self)
        for name in (*LATER_FIELDS, "plans"):
            if values[name] == getattr(Manifest, name):
                del values[name]
        return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Parses a manifest. InputError where the text is no manifest, lacks a field, or has an unsupported schema version."""
        try:
            values: Any = json.loads(text)
        except ValueError as error:
            raise InputError(f"The manifest is not JSON: {error}.") from error
        if not isinstance(values, dict) or not isinstance(values.get("schema_version"), int):
            raise InputError("The manifest has no schema_version: it is not the manifest of a gallery.")
        if values["schema_version"] not in READ_VERSIONS:
            raise InputError(
                f"The gallery has schema version {values['schema_version']}; this program reads versions "
                f"{', '.join(map(str, READ_VERSIONS[:-1]))} and {READ_VERSIONS[-1]}. Use the release that wrote it, or encode again."
            )
        required = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
        missing = sorted(required - values.keys())
        unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(cls)})
        if missing or unknown:
            raise InputError(f"The manifest is damaged: missing fields {missing}, unknown fields {unknown}.")
        manifest = parsed_json(text, cls, "The manifest")
        manifest.check()
        return manifest

    def check(self) -> None:
        """InputError where a number is out of range."""
        low = {"num_rows": 0, "num_ok": 0, "num_parts": 0, "rows_per_part": 1}
        wrong = [f"{name} {getattr(self, name)}, at least {least}" for name, least in low.items() if getattr(self, name) < least]
        if wrong:
            raise InputError(f"The manifest is damaged: {'; '.join(wrong)}.")
        _ = self.schema  # checks the other numbers


def write_manifest(gallery: str, manifest: Manifest, *, check: Callable[[], object] = lambda: None) -> None:
    """Writes `manifest.json` into the gallery (a local folder or a URI), completely or not at all. check: as for `whole_file`."""
    filesystem, path = resolve(gallery)
    with whole_file(filesystem, f"{path}/{MANIFEST_NAME}", check=check) as file:
        file.write(manifest.to_json().encode())


def read_manifest(gallery: str) -> Manifest:
    """The manifest of the gallery at a local folder or URI. InputError where it has none, or one that cannot be read."""
    filesystem, path = resolve(gallery)
    try:
        with filesystem.open_input_file(f"{path}/{MANIFEST_NAME}") as file:
            text = file.read().decode()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{gallery} is not a finished gallery: it has no {MANIFEST_NAME}. `eet encode --out {gallery}` writes "
            "it when the last part is done; an interrupted encode job continues when it is run again."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{gallery}/{MANIFEST_NAME} is not UTF-8 text: {error}.") from error
    try:
        return Manifest.from_json(text)
    except ValueError as error:
        raise InputError(f"{gallery}/{MANIFEST_NAME}: {error}") from error


def is_gallery(path: str) -> bool:
    """Whether there is a finished gallery at `path`."""
    return exists(join_location(path, MANIFEST_NAME))
