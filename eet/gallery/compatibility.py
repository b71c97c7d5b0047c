"""Galleries that meet each other: are they of one model, and which number has a label in both."""

import numpy as np

from eet.errors import InputError
from eet.gallery.models import ModelRecord
from eet.gallery.reader import Gallery


def check_same_model(gallery: Gallery, queries: Gallery) -> None:
    """ValueError where two galleries were made by different models or preprocessing: their codes mean nothing to each other."""
    theirs = queries.manifest
    _check_alike(gallery, (theirs.model_digest, theirs.preprocessing_digest, theirs.num_bits), queries.path)


def check_made_by(gallery: Gallery, record: ModelRecord, told: str) -> None:
    """ValueError where `gallery` was not encoded by the bundle of `record`. told: what the user calls the bundle."""
    _check_alike(gallery, (record.digest, record.preprocessing_digest, record.num_bits), told)


def _check_alike(gallery: Gallery, theirs: tuple[str, str, int], told: str) -> None:
    ours = (gallery.manifest.model_digest, gallery.manifest.preprocessing_digest, gallery.manifest.num_bits)
    for name, mine, other in zip(("model", "preprocessing", "bits"), ours, theirs, strict=True):
        if mine != other:
            raise InputError(f"{gallery.path} was encoded with {name} {mine}, {told} has {other}: encode both with one model")


def labels_in(gallery: Gallery, queries: Gallery, labels: np.ndarray) -> np.ndarray:
    """Labels (Q,) of queries in the gallery's numbering, matched by name; a name that the gallery lacks gets a number behind all of its
    own, and -1 stays unknown. Without names on either side the numbers are taken as they are.
    """
    names, ours = queries.manifest.label_names, gallery.manifest.label_names
    if not names or not ours or names == ours:
        return labels
    places = {name: place for place, name in enumerate(ours)}
    numbers = [places.get(name, len(ours) + place) for place, name in enumerate(names)]
    return np.array([*numbers, -1], np.int32)[labels]
