"""Reads a gallery on disk with DuckDB: how many images there are of each status, and the nearest codes to one item, in SQL.

    pip install duckdb
    python examples/read_gallery_with_duckdb.py runs/gallery ITEM_ID

`eet encode --out runs/gallery` or `eet.encode(..., out="runs/gallery")` writes the gallery.
"""

import argparse

import duckdb

NEAREST = """
    SELECT item.item_id, bit_count(xor(item.code::BIT, query.code::BIT)) AS distance
    FROM gallery AS item, gallery AS query
    WHERE query.item_id = ? AND item.item_id <> query.item_id AND item.status = 'ok' AND query.status = 'ok'
    ORDER BY distance, item.item_id
    LIMIT ?
"""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("gallery", help="folder of the gallery")
parser.add_argument("item_id", help="the item whose neighbours are printed")
parser.add_argument("--k", type=int, default=5, help="number of neighbours")
given = parser.parse_args()

duckdb.read_parquet(f"{given.gallery}/parts/*.parquet").create_view("gallery")
print(duckdb.sql("SELECT status, count(*) AS images FROM gallery GROUP BY status ORDER BY status"))
for item_id, distance in duckdb.execute(NEAREST, [given.item_id, given.k]).fetchall():
    print(distance, item_id)
