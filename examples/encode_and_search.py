"""Encodes a folder of images and prints the nearest ones to a query.

    python examples/encode_and_search.py runs/model photos query.jpg

The first argument is a model: `eet quickstart` or examples/train_in_one_process.py makes one.
"""

import argparse

import eet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder of the model")
parser.add_argument("images", help="folder of the images to search")
parser.add_argument("query", nargs="+", help="one or more query images")
parser.add_argument("--k", type=int, default=5, help="hits of each query")
given = parser.parse_args()

model = eet.load_model(given.model)
gallery = eet.encode(model, given.images)
queries = eet.encode(model, given.query)
hits = eet.search(gallery, queries, k=given.k)
print(hits.to_pandas()[["query_id", "rank", "item_id", "distance"]].to_string(index=False))
