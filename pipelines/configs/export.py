"""Options of `eet export`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions


@dataclass(kw_only=True)
class ExportConfig(JobOptions):
    """Writes the codes of a gallery for another search library. An existing export is replaced.

    Attributes:
        gallery: Gallery that `eet encode` wrote.
        to: faiss: FAISS's flat binary index (codes.faiss, for faiss.read_index_binary) and ids.parquet, whose row i is the item of its row
            i, with item_id and label.
        out: Folder of the export, on this machine.
    """

    examples: ClassVar[tuple[str, ...]] = ("eet export --gallery runs/gallery --to faiss --out runs/faiss",)
    unused: ClassVar[tuple[str, ...]] = ("address", "tracking_uri", "seed")

    gallery: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    to: Literal["faiss"] = "faiss"

    def problems(self) -> list[str]:
        return super().problems() + self.local_only("out")
