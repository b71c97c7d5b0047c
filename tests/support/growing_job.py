"""Encodes on a cluster that grows. A part takes long until actors on two nodes have been seen: a test's images are too few to keep a
cluster busy for the time that a node takes to start.

python growing_job.py MODEL IMAGES GALLERY ADDRESS
"""

import sys
import time
from pathlib import Path
from typing import Any

from pipelines import encode
from pipelines.actors import encoding

SLOW_S = 3


def slowed(actor: type, folder: Path) -> type:
    """A subclass of a Ray Data actor class that leaves its node's id in the folder, and waits before a batch while it is the only one."""

    class Slowed(actor):  # type: ignore[misc]
        def __call__(self, batch: Any) -> Any:
            import ray

            (folder / ray.get_runtime_context().get_node_id()).touch()
            if len(list(folder.iterdir())) < 2:
                time.sleep(SLOW_S)
            return super().__call__(batch)

    return Slowed


def main(model: str, images: str, gallery: str, address: str) -> None:
    nodes = Path(gallery).parent / "nodes"
    nodes.mkdir()
    encoding.PartActor = slowed(encoding.PartActor, nodes)
    encode.run(
        encode.EncodeConfig(model=model, images=images, out=gallery, rows_per_part=4, batch_size=4, threads=1, tokens=True, address=address)
    )  # fmt: skip
    print(f"nodes: {len(list(nodes.iterdir()))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
