"""The names that an option allows."""

from typing import Literal

Backend = Literal["auto", "native", "faiss"]
"""What searches the codes of an index; see `eet.search.with_backend`."""

Denominator = Literal["all", "reachable", "found"]
"""What the mAP@k of hits divides by: all matches, those reachable in k hits, or those found."""

Fit = Literal["crop", "squash"]
"""How an image of another shape becomes an input: its edges are cut off, or the whole image is squeezed."""

GlobalSimilarity = Literal["hamming", "asymmetric", "embedding"]
"""The similarity of two images as a whole, to which that of their regions is added."""

HashInput = Literal["logits", "probabilities", "joint"]
"""What the hash of an image is computed from."""

LabelChoice = Literal["all", "seen", "unseen"]
"""The queries that are measured: all, or those whose label a model saw in training, or did not."""

Mode = Literal["resume", "overwrite", "append"]
"""What becomes of a gallery that exists."""

Precision = Literal["auto", "fp32", "bf16"]
"""Of a network's arithmetic: "auto" is bf16 on CUDA and fp32 on a CPU."""

Role = Literal["query", "database"]
"""The side of a search that an image is meant for."""

SUBTASKS = ("all", "s2w", "w2s", "o2n", "n2o", "d2n", "n2d")
"""Of the dataset msls: summer to winter, old to new, day to night, and back; the query's side is first."""

Ties = Literal["expected", "stable"]
"""How a measure treats equal distances: as the mean over random order, or in the order of the items."""

TokenMass = Literal["importance", "rollout"]
"""Source of a kept token's mass: its importance in pruning, or attention rollout."""

VectorForm = Literal["float16", "int8", "int4", "int2", "bits"]
"""How a vector is stored: as it is in float16, or its direction alone in 8, 4, 2 or 1 bits for each dimension."""

VectorSource = Literal["embedding", "hash", "code"]
"""The vectors of an exported gallery: embeddings, real-valued hashes, or the bits of the codes as -1 and +1."""
