"""The Parquet gallery: its schema, plan, parts, manifest and reader, and the hits of a search."""

from eet.gallery.compatibility import PrecisionWarning, check_encoded_for, check_made_by, check_same_model, labels_in, warn_of_precision
from eet.gallery.encoder import DEFAULT_BATCH_SIZE, EncodedPart, PartEncoder
from eet.gallery.external_sort import RUN_ROWS, merge_by_id, sorted_by_id
from eet.gallery.hits import (
    HITS_SCHEMA,
    METRES_FIELD,
    QUERIES_FOLDER,
    RERANKED_SCHEMA,
    queries_gallery,
    read_hits,
    read_options,
    read_queries_digest,
    read_recall,
    spread_queries,
    write_hits,
)
from eet.gallery.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest, is_gallery, read_manifest, write_manifest
from eet.gallery.models import GalleryModel, ModelRecord, load_model, model_schema, read_model_record, record_of
from eet.gallery.parts import finished_parts, part_name, write_part
from eet.gallery.plan import (
    ITEM_SCHEMA,
    PLAN_SCHEMA,
    PlannedPart,
    items_table,
    plan_name,
    planned_ids,
    planned_parts,
    read_planned_part,
    write_plan,
)
from eet.gallery.reader import CodedRows, Gallery, open_gallery
from eet.gallery.schema import OK, fixed_binary_to_numpy, gallery_schema, part_table
from eet.gallery.vectors import is_rotated, vectors_of

__all__ = [
    "DEFAULT_BATCH_SIZE",
    "HITS_SCHEMA",
    "ITEM_SCHEMA",
    "MANIFEST_NAME",
    "METRES_FIELD",
    "OK",
    "PLAN_SCHEMA",
    "QUERIES_FOLDER",
    "RERANKED_SCHEMA",
    "RUN_ROWS",
    "PlannedPart",
    "SCHEMA_VERSION",
    "CodedRows",
    "EncodedPart",
    "Gallery",
    "GalleryModel",
    "Manifest",
    "ModelRecord",
    "PartEncoder",
    "PrecisionWarning",
    "check_encoded_for",
    "check_made_by",
    "check_same_model",
    "finished_parts",
    "items_table",
    "fixed_binary_to_numpy",
    "gallery_schema",
    "is_gallery",
    "is_rotated",
    "labels_in",
    "load_model",
    "model_schema",
    "merge_by_id",
    "open_gallery",
    "part_name",
    "part_table",
    "plan_name",
    "planned_ids",
    "planned_parts",
    "queries_gallery",
    "read_hits",
    "read_manifest",
    "read_model_record",
    "read_planned_part",
    "read_options",
    "read_queries_digest",
    "read_recall",
    "record_of",
    "sorted_by_id",
    "spread_queries",
    "vectors_of",
    "warn_of_precision",
    "write_hits",
    "write_manifest",
    "write_part",
    "write_plan",
]
