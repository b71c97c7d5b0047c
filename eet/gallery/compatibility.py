"""Whether two galleries come from the same model, and how the labels of one are numbered in the other."""

import warnings

import numpy as np

from eet.errors import InputError
from eet.gallery.hits import read_queries_digest
from eet.gallery.models import ModelRecord
from eet.gallery.reader import Gallery


class PrecisionWarning(UserWarning):
    """Two galleries were encoded in different precisions. The message names them."""


def check_same_model(gallery: Gallery, queries: Gallery) -> None:
    """Checks that two galleries were encoded by the same model with the same preprocessing; their codes cannot be compared otherwise.

    Raises:
        InputError: they differ; the message names the difference.
    """
    manifest = queries.manifest
    _check_alike(gallery, (manifest.model_digest, manifest.preprocessing_digest, manifest.num_bits), queries.path)


def warn_of_precision(gallery: Gallery, queries: Gallery) -> None:
    """Issues a PrecisionWarning where two galleries name different precisions; "auto", which depends on the device, names none."""
    own, other = gallery.manifest.precision, queries.manifest.precision
    if "auto" not in (own, other) and own != other:
        warnings.warn(
            f"{gallery.path} was encoded in {own}, {queries.path} in {other}: about 1 % of their bits differ for that reason alone, and an "
            f"image may have a distance to itself. Encode the queries with precision {own}",
            PrecisionWarning,
            stacklevel=3,
        )


def check_made_by(gallery: Gallery, record: ModelRecord, bundle: str) -> None:
    """Checks that `gallery` was encoded by the model of a bundle.

    Args:
        gallery: an open gallery.
        record: of the bundle.
        bundle: what error messages call the bundle.

    Raises:
        InputError: it was encoded by another model, or with other preprocessing.
    """
    _check_alike(gallery, (record.digest, record.preprocessing_digest, record.num_bits), bundle)


def check_encoded_for(hits: str, queries: Gallery) -> None:
    """Checks that the queries that were encoded with a search are those of its hits.

    Raises:
        InputError: they are of another search, as after one that was stopped between writing its queries and its hits.
    """
    digest = read_queries_digest(hits)
    if digest is not None and queries.digest() != digest:
        raise InputError(f"{queries.path} holds the queries of another search than {hits}: search again")


def _check_alike(gallery: Gallery, compared: tuple[str, str, int], name_of_compared: str) -> None:
    own = (gallery.manifest.model_digest, gallery.manifest.preprocessing_digest, gallery.manifest.num_bits)
    for name, value, other in zip(("model", "preprocessing", "bits"), own, compared, strict=True):
        if value != other:
            raise InputError(f"{gallery.path} was encoded with {name} {value}, {name_of_compared} has {other}: encode both with one model")


def labels_in(gallery: Gallery, queries: Gallery, labels: np.ndarray) -> np.ndarray:
    """Converts the labels of queries to the gallery's numbering, by label name.

    If either side has no label names, the numbers are taken as they are.

    Args:
        gallery: the gallery that is searched.
        queries: the gallery of the queries.
        labels: integers (Q,) in the numbering of `queries`; -1 where unknown.

    Returns:
        int32 (Q,) in the numbering of `gallery`. A name that the gallery lacks gets a number above all of the gallery's; -1 stays -1.
    """
    query_names, gallery_names = queries.manifest.label_names, gallery.manifest.label_names
    if not query_names or not gallery_names or query_names == gallery_names:
        return labels
    number_of = {name: number for number, name in enumerate(gallery_names)}
    numbers = [number_of.get(name, len(gallery_names) + number) for number, name in enumerate(query_names)]
    return np.array([*numbers, -1], np.int32)[labels]
