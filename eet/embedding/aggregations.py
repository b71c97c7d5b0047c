"""All aggregation layers of base models, by name."""

from collections.abc import Callable, Mapping
from typing import Any

from eet.embedding.aggregation import Aggregation, VectorAggregation
from eet.embedding.by_name import class_by_name
from eet.embedding.gem import GeMAggregation
from eet.embedding.netvlad import NetVLADAggregation
from eet.embedding.salad import SaladAggregation
from eet.embedding.vlad import VladAggregation
from eet.errors import InputError

AGGREGATIONS: dict[str, Callable[..., Aggregation]] = {
    "vector": VectorAggregation,
    "gem": GeMAggregation,
    "vlad": VladAggregation,
    "netvlad": NetVLADAggregation,
    "salad": SaladAggregation,
}
"""Name, as users give it -> class, whose first arguments are the width and the number of patches."""


def build_aggregation(name: str, width: int, num_patches: int, options: Mapping[str, Any]) -> Aggregation:
    """Builds an aggregation layer.

    Args:
        name: a name in AGGREGATIONS.
        width: of the backbone.
        num_patches: of an image.
        options: of the layer.

    Raises:
        InputError: an unknown name, an option that the layer does not have, or invalid values of its options.
    """
    build = class_by_name("aggregation", AGGREGATIONS, name, options, positional=2)
    try:
        return build(width, num_patches, **options)
    except TypeError as error:
        raise InputError(f"the aggregation {name} cannot be built with the options {dict(options)}: {error}") from error
