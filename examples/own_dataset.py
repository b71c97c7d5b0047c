"""Registers your own loader of a dataset and measures a model on what it reads.

    python examples/own_dataset.py runs/model photos

The images lie in one folder and are named LABEL-NUMBER.png, for example wren-0012.png.
"""

import argparse
from pathlib import Path

import numpy as np

import eet
from eet.datasets import DATASETS, ImageTable, load_dataset


def load(root: str) -> ImageTable:
    """Every image is of the test split: there is nothing to train here."""
    paths = sorted(path.name for path in Path(root).glob("*-*.png"))
    names, labels = np.unique([path.rpartition("-")[0] for path in paths], return_inverse=True)
    splits = np.array(["test"] * len(paths))
    return ImageTable(root=root, paths=tuple(paths), labels=labels.astype(np.int32), splits=splits, label_names=tuple(names.tolist()))


DATASETS["named_files"] = load

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder of the model")
parser.add_argument("root", help="folder of the images")
given = parser.parse_args()

table = load_dataset("named_files", given.root)
paths = [table.location(row) for row in range(len(table))]
gallery = eet.encode(given.model, paths, labels=table.labels.tolist(), label_names=table.label_names)
print(f"{len(table)} images of {', '.join(table.label_names)}")
print(eet.evaluate(gallery))
