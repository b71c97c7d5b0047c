"""A process of its own that encodes and re-ranks on three raylets and loses one in the midst of either: what a test of its own process
cannot do, which has a Ray session already.

python cluster_job.py MODEL IMAGES GALLERY HITS RERANKED: raylets of 2 CPUs each.
"""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

NODES = 3


def running(actor: str) -> int:
    """Processes of this session's actors of that class."""
    import psutil  # Ray brings its own

    found = 0
    for child in psutil.Process().children(recursive=True):
        try:
            found += actor in " ".join(child.cmdline())
        except psutil.Error:  # ended meanwhile
            continue
    return found


def main(model: str, images: str, gallery: str, hits: str, reranked: str) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from eet.gallery import open_gallery, write_hits
    from pipelines import encode, rerank
    from pipelines.search import search_gallery

    sizes = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    noticed = {"health_check_period_ms": 1000}  # default 3000: five in vain are a lost node
    cluster = Cluster(initialize_head=True, head_node_args={**sizes, "include_dashboard": False, "_system_config": noticed})
    workers = [cluster.add_node(**sizes) for _ in range(NODES - 1)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

    def lose_when(ready: Callable[[], bool], job: str) -> None:
        def wait() -> None:
            while not ready():
                time.sleep(0.005)
            cluster.remove_node(workers.pop(), allow_graceful=False)
            print(f"{job}: lost a node", flush=True)

        threading.Thread(target=wait, daemon=True).start()

    def told(job: str) -> None:
        print(f"{job}: done on {sum(node['Alive'] for node in ray.nodes())} nodes", flush=True)

    lose_when(lambda: len(list(Path(gallery).glob("part-*.parquet"))) >= 3, "encode")
    # As many workers as CPUs: what survives has fewer than the pool wanted.
    encode.run(
        encode.EncodeConfig(
            model=model, images=images, out=gallery, tokens=True, rows_per_part=8, batch_size=8, threads=1, workers=2 * NODES,
            address=cluster.address,
        )
    )  # fmt: skip
    told("encode")

    coded = open_gallery(gallery)
    write_hits(hits, search_gallery(coded, coded, k=coded.manifest.num_ok - 1))
    workers.append(cluster.add_node(**sizes))  # three again
    cluster.wait_for_nodes()
    # Of so many scorers one at least is on the node that goes. The exact solver takes seconds, so that there is a midst.
    lose_when(lambda: running("_ScoreActor") == 2 * NODES, "rerank")
    rerank.run(
        rerank.RerankConfig(hits=hits, gallery=gallery, out=reranked, top=1000, solver="exact", workers=2 * NODES, address=cluster.address)
    )
    told("rerank")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
