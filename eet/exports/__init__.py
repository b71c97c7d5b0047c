"""Galleries and models in the files of other programs."""

from eet.exports.formats import GALLERY_FORMATS, MODEL_FORMATS, GalleryFormat, ModelFormat
from eet.exports.vector_tables import vector_source, vector_tables

__all__ = ["GALLERY_FORMATS", "MODEL_FORMATS", "GalleryFormat", "ModelFormat", "vector_source", "vector_tables"]
