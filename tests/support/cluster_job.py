"""A process of its own that encodes and re-ranks on two worker nodes and loses one while both are at work: what a test cannot do in its
own process, which has a Ray session already.

python cluster_job.py MODEL IMAGES GALLERY HITS RERANKED: a head without CPUs, and raylets of 2 CPUs each.
"""

import sys
import threading
from pathlib import Path

import ray
from gate import Gate, wait_until
from ray.cluster_utils import Cluster

from eet.gallery import open_gallery, write_hits
from eet.retrieval.search import search_gallery
from pipelines import encode, rerank
from pipelines.actors import encoding, scoring

NODES = 2
SIZES = {"num_cpus": 2, "object_store_memory": 100 * 2**20}


class LosingCluster:
    """A head and two worker nodes, of which `lose_one` removes one while an actor on it waits at the gate, so that it has work in hand."""

    def __init__(self) -> None:
        noticed = {"health_check_period_ms": 1000}  # default 3000: five in vain are a lost node
        head = {**SIZES, "num_cpus": 0, "include_dashboard": False, "_system_config": noticed}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(NODES):
            self.cluster.add_node(**SIZES)
        self.cluster.wait_for_nodes()

    def lose_one(self, gate: Gate, job: str) -> threading.Thread:
        """Starts a thread that waits for actors on both worker nodes, removes one node, and opens the gate."""

        def lose() -> None:
            wait_until(lambda: len({arrival.node_id for arrival in gate.arrivals()}) == NODES)
            self.cluster.remove_node(sorted(self.cluster.worker_nodes, key=lambda node: node.node_id)[0], allow_graceful=False)
            print(f"{job}: lost a node at work", flush=True)
            gate.open()

        thread = threading.Thread(target=lose, daemon=True)
        thread.start()
        return thread

    def replace_lost(self) -> None:
        self.cluster.add_node(**SIZES)
        self.cluster.wait_for_nodes()


def main(model: str, images: str, gallery: str, hits: str, reranked: str) -> None:
    losing = LosingCluster()
    address = losing.cluster.address
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")

    gate = Gate(Path(gallery).parent / "encode-gate")
    encoding.PartActor = gate.closed(encoding.PartActor)
    thread = losing.lose_one(gate, "encode")
    encode.run(
        encode.EncodeConfig(
            model=model, images=images, out=gallery, tokens=True, rows_per_part=8, batch_size=8, threads=1, workers=NODES,
            address=address,
        )
    )  # fmt: skip
    thread.join()
    print("encode: done", flush=True)

    coded = open_gallery(gallery)
    write_hits(hits, search_gallery(coded, coded, k=coded.manifest.num_ok - 1))
    losing.replace_lost()
    gate = Gate(Path(gallery).parent / "rerank-gate")
    scoring.ScoreActor = gate.closed(scoring.ScoreActor)
    thread = losing.lose_one(gate, "rerank")
    rerank.run(rerank.RerankConfig(hits=hits, gallery=gallery, out=reranked, top=1000, workers=NODES, address=address))
    thread.join()
    print("rerank: done", flush=True)
    ray.shutdown()
    losing.cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
