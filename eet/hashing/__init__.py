"""Hash codes: target codes of labels (two-step learning), packing, Hamming distance."""

from eet.hashing.distance import asymmetric_scores, hamming_distances
from eet.hashing.packing import pack, unpack
from eet.hashing.target_codes import learn_target_codes, shared_codes

__all__ = ["asymmetric_scores", "hamming_distances", "learn_target_codes", "pack", "shared_codes", "unpack"]
