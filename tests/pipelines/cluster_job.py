"""A process of its own that encodes on several raylets, and may lose one of them midway: what a test of this process cannot do, which has
a Ray session already.

python cluster_job.py MODEL IMAGES OUT NODES LOST: NODES raylets of 2 CPUs each; with LOST above 0, one goes when so many parts are there.
"""

import sys
import threading
import time
from pathlib import Path


def main(model: str, images: str, out: str, nodes: int, lost: int) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from pipelines import encode

    sizes = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**sizes, "include_dashboard": False})
    workers = [cluster.add_node(**sizes) for _ in range(nodes - 1)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

    def lose() -> None:
        while len(list(Path(out).glob("part-*.parquet"))) < lost:
            time.sleep(0.005)
        cluster.remove_node(workers[-1], allow_graceful=False)
        print(f"lost a node after {len(list(Path(out).glob('part-*.parquet')))} parts", flush=True)

    if lost:
        threading.Thread(target=lose, daemon=True).start()
    # As many workers as CPUs: what survives has fewer than the pool wanted.
    config = encode.EncodeConfig(
        model=model, images=images, out=out, rows_per_part=8, batch_size=8, threads=1, workers=2 * nodes, address=cluster.address
    )
    encode.run(config)
    alive = sum(node["Alive"] for node in ray.nodes())
    print(f"{alive} of {nodes} nodes are alive")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
