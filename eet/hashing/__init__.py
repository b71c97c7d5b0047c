"""Hash codes: target codes of labels (two-step learning), hashes fitted without labels, packing, Hamming distance."""

from eet.hashing.distance import asymmetric_scores, hamming_distances
from eet.hashing.itq import Projection, fit_itq
from eet.hashing.packing import pack, unpack
from eet.hashing.separated_codes import minimum_distance, separated_target_codes
from eet.hashing.target_codes import learn_target_codes, shared_codes, target_codes
from eet.hashing.within_label_whitening import fit_within_label_whitening

__all__ = [
    "Projection",
    "asymmetric_scores",
    "fit_itq",
    "fit_within_label_whitening",
    "hamming_distances",
    "learn_target_codes",
    "minimum_distance",
    "pack",
    "separated_target_codes",
    "shared_codes",
    "target_codes",
    "unpack",
]
