"""Adds your own marginal and re-ranks with it.

    python examples/own_marginal.py runs/model photos query.jpg

A marginal says how much each token of an image sends or receives in optimal transport. This one gives all mass to the tokens
that are more important than the average token.
"""

import argparse

import torch

import eet
from eet.matching import MARGINALS, Marginal, importance


def above_average(mass: torch.Tensor) -> torch.Tensor:
    """mass (..., K), the importance of K tokens; what is below the mean becomes 0, the rest is scaled to sum to 1."""
    return importance(torch.where(mass < mass.mean(dim=-1, keepdim=True), 0, mass))


MARGINALS["above_average"] = Marginal(above_average, "mass")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder of the model")
parser.add_argument("images", help="folder of the images to search")
parser.add_argument("query", help="the query image")
given = parser.parse_args()

model = eet.load_model(given.model)
gallery = eet.encode(model, given.images, tokens=True)
hits = eet.search(gallery, eet.encode(model, [given.query], tokens=True), k=20)
for marginal in ("importance", "above_average"):
    better = eet.rerank(hits, top=10, marginal=marginal)
    print(marginal, better.table["item_id"].to_pylist()[:3], better.table["score_struct"].to_pylist()[:3])
