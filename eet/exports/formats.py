"""All forms in which a gallery or a model is exported, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from eet.exports import faiss_codes, hub_folder, onnx_model, vector_tables
from eet.gallery import Gallery
from eet.options.choices import VectorSource
from eet.search.faiss_index import imported_faiss
from eet.storage import FolderKind


@dataclass(frozen=True)
class GalleryFormat:
    """A form in which a gallery is exported.

    Attributes:
        write: (gallery, an existing local folder, source of the vectors) -> number of items.
        folder: how such an export is recognised.
        opened_by: how the other program opens the export; FOLDER stands for its folder.
        check: raises InputError where the package that writes it is missing.
        codes_only: whether it has no other vectors than the codes.
    """

    write: Callable[[Gallery, str, VectorSource], int]
    folder: FolderKind
    opened_by: str
    check: Callable[[], object] = lambda: None
    codes_only: bool = False


def _folder(marker: str, others: str = "") -> FolderKind:
    return FolderKind(noun="such an export", marker=marker, names=rf"config\.yaml{others}", complete=marker)


GALLERY_FORMATS: dict[str, GalleryFormat] = {
    "faiss": GalleryFormat(
        faiss_codes.write_faiss,
        _folder(faiss_codes.IDS_FILE, r"|codes\.faiss"),
        f"faiss.read_index_binary('FOLDER/{faiss_codes.FAISS_FILE}')",
        check=imported_faiss,
        codes_only=True,
    ),
    "parquet-vectors": GalleryFormat(
        vector_tables.write_parquet_vectors,
        _folder(vector_tables.VECTORS_FILE),
        f"polars.read_parquet('FOLDER/{vector_tables.VECTORS_FILE}')",
    ),
    "lance": GalleryFormat(
        vector_tables.write_lance,
        _folder(vector_tables.LANCE_DATASET),
        f"lance.dataset('FOLDER/{vector_tables.LANCE_DATASET}')",
        check=vector_tables.imported_lance,
    ),
    "embedding-atlas": GalleryFormat(
        vector_tables.write_atlas,
        _folder(vector_tables.ATLAS_FILE),
        f"embedding-atlas FOLDER/{vector_tables.ATLAS_FILE} --vector vector --image image",
    ),
}
"""Form, as users name it -> how it is written."""


@dataclass(frozen=True)
class ModelFormat:
    """A form in which a model is exported.

    Attributes:
        write: (location of the bundle, a local file, or an existing local folder, name of the model) -> one sentence about it.
        folder: how such an export is recognised; None if it is one file.
        check: raises InputError where the package that writes it is missing.
    """

    write: Callable[[str, str, str], str]
    folder: FolderKind | None
    check: Callable[[], object] = lambda: None


MODEL_FORMATS: dict[str, ModelFormat] = {
    "onnx": ModelFormat(onnx_model.write_onnx, None, onnx_model.check_onnx),
    "hub-folder": ModelFormat(hub_folder.write_hub_folder, hub_folder.HUB_FOLDER),
}
"""Form, as users name it -> how it is written."""
