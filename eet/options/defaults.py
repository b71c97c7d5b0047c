"""Defaults and limits. PUBLISHED_ are those of the papers."""

PUBLISHED_BETA, PUBLISHED_SIGMA, PUBLISHED_MASKED_PATCHES = 0.1, 1.0, 4
"""Weights of the student's objective, and the number of masked patches."""
PUBLISHED_MIN_CROP_AREA = 0.08  # torchvision's RandomResizedCrop, as published
DEFAULT_LABEL_WEIGHT = 0.6  # measured: higher values find fewer images of untrained labels, lower values fewer of trained labels

PUBLISHED_MARGIN, PUBLISHED_BOUNDARY, PUBLISHED_BOUNDARY_LEARNING_RATE = 0.2, 0.6, 5e-4
"""Of the margin loss: the margin, the first boundary of every label, and the learning rate of the boundaries."""
PUBLISHED_WIDTH = 128
"""Dimensions of a base model's embedding."""

ADAPTED_TO = 4000
"""Number of images that a rotation is fitted to."""

HITS_OF_A_QUERY = 100
"""The number of hits where neither a number nor a radius is given."""
RESCORE_WEIGHT = 1.0
"""Weight of embeddings where hits are re-ordered by codes and embeddings."""
MOST_ON_GPU = 2048
"""Most codes that FAISS's GPU index finds for a query."""

MOST_HITS = 1000
"""Limit of k on the search page, and of the number of its re-ranked hits."""
MAX_PIXELS = 50_000_000
"""The largest image that the search page decodes for a query."""
MOST_LINKS = 256
"""Most links of a code in FAISS's graph."""


def number_of_hits(k: int | None, radius: int | None) -> int | None:
    """The most hits of a query: k if given, else HITS_OF_A_QUERY, or None (all) where a radius limits them."""
    return HITS_OF_A_QUERY if k is None and radius is None else k
