"""Options of `eet export`."""

from dataclasses import dataclass, field
from typing import ClassVar

from eet.options.choices import VectorSource
from eet.options.registered import registered
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions


@dataclass(kw_only=True)
class ExportConfig(JobOptions):
    """Writes a gallery or a model in the files of another program. An existing export of the same form is replaced.

    Attributes:
        gallery: Gallery that `eet encode` wrote, to export to faiss, parquet-vectors, lance or embedding-atlas.
        model: Bundle of the model to export to onnx or hub-folder.
        to: faiss: FAISS's flat binary index (codes.faiss, for faiss.read_index_binary) and ids.parquet, whose row i is the item of its row
            i, with item_id and label. parquet-vectors: vectors.parquet with a list of float32 for each item. lance: the Lance dataset
            items.lance, which LanceDB opens, with vectors and codes. embedding-atlas: items.parquet with vectors and small images. onnx: a
            file that makes codes of any number of images; its codes are compared with the model's in onnxruntime. hub-folder: the model
            without checkpoints, with config.json and a model card, for `hf upload`.
        vector: The vectors of an exported gallery, except for faiss: the embedding, the real-valued hash, or the bits of the code as -1
            and +1. Default: the first of these that the gallery has.
        out: Folder of the export, on this machine; for onnx the file.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet export --gallery runs/gallery --to faiss --out runs/faiss",
        "eet export --gallery runs/gallery --to embedding-atlas --out runs/atlas",
        "eet export --model runs/model --to onnx --out runs/model.onnx",
    )
    unused: ClassVar[tuple[str, ...]] = ("address", "tracking_uri", "seed")

    gallery: str | None = field(default=None, metadata=LOCATION)
    model: str | None = field(default=None, metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    to: str = "faiss"
    vector: VectorSource | None = None

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out")
        of_gallery, of_model = (registered("eet.exports.formats", name) for name in ("GALLERY_FORMATS", "MODEL_FORMATS"))
        if self.to not in (*of_gallery, *of_model):
            return [*found, f"--to {self.to}: allowed are {', '.join((*of_gallery, *of_model))}"]
        needed, other = ("gallery", "model") if self.to in of_gallery else ("model", "gallery")
        if getattr(self, needed) is None:
            found.append(f"--{needed} is missing: --to {self.to} exports a {needed}")
        if getattr(self, other) is not None:
            found.append(f"--{other} {getattr(self, other)}: --to {self.to} exports a {needed}; leave it out, or choose another --to")
        if self.to == "onnx" and not self.out.endswith(".onnx"):
            found.append(f"--out {self.out}: give a file that ends in .onnx")
        if self.vector is not None and (self.to in of_model or (self.to == "faiss" and self.vector != "code")):
            what = "exports a model" if self.to in of_model else "writes the codes alone"
            found.append(f"--vector {self.vector}: --to {self.to} {what}; leave it out, or choose another --to")
        return found
