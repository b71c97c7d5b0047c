"""Re-ranks the hits of one query by matching image regions, and saves two images: the hits, and the matched regions.

    python examples/rerank_and_draw.py runs/model photos query.jpg runs/drawn

writes runs/drawn/hits.png and runs/drawn/matches.png.
"""

import argparse
from pathlib import Path

import eet
from eet.retrieval.matches import match_blocks

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder of the model")
parser.add_argument("images", help="folder of the images to search")
parser.add_argument("query", help="the query image")
parser.add_argument("out", help="folder of the two images")
given = parser.parse_args()

model = eet.load_model(given.model)
gallery = eet.encode(model, given.images, tokens=True)
hits = eet.search(gallery, eet.encode(model, [given.query], tokens=True), k=50)
better = eet.rerank(hits, top=20)

out = Path(given.out)
out.mkdir(parents=True, exist_ok=True)
better.panel(0).save(out / "hits.png")
(first,) = match_blocks(model, better.table, better.query_ids, better.gallery, better.queries, top=1)
first.image.save(out / "matches.png")
print(f"{out / 'matches.png'}: {first.caption}")
