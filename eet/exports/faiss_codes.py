"""The codes of a gallery as FAISS's flat binary index."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from eet.gallery import Gallery
from eet.options.choices import VectorSource
from eet.retrieval.gallery_index import by_id
from eet.search.faiss_index import flat_index, imported_faiss

FAISS_FILE, IDS_FILE = "codes.faiss", "ids.parquet"


def write_faiss(gallery: Gallery, folder: str | Path, source: VectorSource = "code") -> int:
    """Writes FAISS's flat binary index of a gallery's codes, for `faiss.read_index_binary`.

    Args:
        gallery: the gallery. Items without a code are left out.
        folder: an existing local folder. codes.faiss is the index: its bits are those of whole bytes, as `Gallery.codes` packs them.
            ids.parquet has a row for each of its rows, with item_id and label (null where unknown), by item_id.
        source: "code", the only vectors of a binary index.

    Returns:
        The number of items.

    Raises:
        InputError: FAISS cannot be imported, or a part of the gallery is missing.
    """
    faiss = imported_faiss()
    codes_NB, item_ids, labels_N = by_id(gallery.coded_rows())
    index = flat_index(8 * codes_NB.shape[1], "cpu")
    index.add(codes_NB)
    faiss.write_index_binary(index, str(Path(folder) / FAISS_FILE))
    labels = pa.array(labels_N, pa.int32(), mask=labels_N < 0)
    pq.write_table(pa.table({"item_id": item_ids, "label": labels}), Path(folder) / IDS_FILE)
    return len(codes_NB)
