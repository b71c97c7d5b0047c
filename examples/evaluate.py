"""Encodes the test split of a dataset and prints how good its codes are.

    python examples/evaluate.py runs/model runs/birds

The second argument is the folder of a dataset. Drawn birds are written there if it does not exist.
"""

import argparse
from pathlib import Path

import eet
from eet.datasets import load_dataset, synthetic

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder of the model")
parser.add_argument("root", help="folder of the dataset")
parser.add_argument("--dataset", default="synthetic", help="a name in eet.datasets.DATASETS")
given = parser.parse_args()

if given.dataset == "synthetic" and not Path(given.root).exists():
    synthetic.write(given.root)
test = load_dataset(given.dataset, given.root).select("test")
paths = [test.location(row) for row in range(len(test))]
gallery = eet.encode(given.model, paths, labels=test.labels.tolist(), label_names=test.label_names)
print(eet.evaluate(gallery))  # every image is a query, and all others are ranked for it
