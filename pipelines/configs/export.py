"""Options of `eet export`."""

from dataclasses import dataclass, field
from typing import ClassVar

from eet.options.choices import VectorSource
from eet.options.registered import registered
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions


@dataclass(kw_only=True)
class ExportConfig(JobOptions):
    """Writes a gallery in the files of another program. An existing export of the same form is replaced.

    Attributes:
        gallery: Gallery that `eet encode` wrote.
        to: faiss: FAISS's flat binary index (codes.faiss, for faiss.read_index_binary) and ids.parquet, whose row i is the item of its row
            i, with item_id and label. parquet-vectors: vectors.parquet with a list of float32 for each item. lance: the Lance dataset
            items.lance, which LanceDB opens, with vectors and codes. embedding-atlas: items.parquet with vectors and small images.
        vector: The vectors of an export other than faiss: the embedding, the real-valued hash, or the bits of the code as -1 and +1.
            Default: the first of these that the gallery has.
        out: Folder of the export, on this machine.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet export --gallery runs/gallery --to faiss --out runs/faiss",
        "eet export --gallery runs/gallery --to embedding-atlas --out runs/atlas",
    )
    unused: ClassVar[tuple[str, ...]] = ("address", "tracking_uri", "seed")

    gallery: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    to: str = "faiss"
    vector: VectorSource | None = None

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out")
        if self.to not in (allowed := registered("eet.exports.formats", "GALLERY_FORMATS")):
            found.append(f"--to {self.to}: allowed are {', '.join(allowed)}")
        if self.to == "faiss" and self.vector not in (None, "code"):
            found.append(f"--vector {self.vector}: --to faiss writes the codes alone; leave it out, or choose another --to")
        return found
