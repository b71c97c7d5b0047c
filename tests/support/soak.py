"""A soak test: `eet encode` on raylets of this machine while drivers, actors and raylets are killed at random moments.

    python tests/support/soak.py --minutes 60 --seed 0 --folder /tmp/soak

Each round encodes the same images into a new gallery, or over or onto that of the round before, and lets the same command go on after
every kill of its driver. Afterwards the gallery is compared with one that was encoded in one process without a fault. It prints one line
for each round and a table at the end; exit code 1 where a row is missing, doubled or wrong.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # for a driver to find its node; read when Ray is imported

import torch
from ray.cluster_utils import Cluster

import eet
from eet.datasets import synthetic
from eet.vit import PruningSchedule, build_student, save_bundle

NODES = 2
SIZES: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
OPTIONS = ["--rows-per-part", "16", "--batch-size", "8", "--threads", "1", "--tokens", "--workers", str(NODES)]
ROUND_S = 1200


def prepare(folder: Path, copies: int) -> None:
    """Writes a small model, drawn images under many names, and half of them as a second folder."""
    synthetic.write(folder / "birds", num_labels=4, images_per_label=8, test_per_label=4, image_size=48)
    table = synthetic.load(str(folder / "birds"))
    for name, number in (("images", copies), ("half", copies // 2)):
        (folder / name).mkdir()
        for copy in range(number):
            for row in range(len(table)):
                (folder / name / f"{copy:03d}-{row:02d}.png").symlink_to(table.location(row))
    torch.manual_seed(0)
    student = build_student(
        "vit_tiny_patch16_224", num_classes=4, num_bits=64, schedule=PruningSchedule((1, 2, 3), (0.5, 0.5, 0.25)), image_size=48,
        weights="none", backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}, seed=3,
    )  # fmt: skip
    save_bundle(student, folder / "model")


class Raylets:
    """A head without CPUs and worker nodes, of which any can be killed and is replaced."""

    def __init__(self) -> None:
        head = {**SIZES, "num_cpus": 0, "include_dashboard": False, "_system_config": {"health_check_period_ms": 1000}}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(NODES):
            self.cluster.add_node(**SIZES)
        self.cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill_node(self, chance: random.Random) -> bool:
        node = chance.choice(sorted(self.cluster.worker_nodes, key=lambda node: node.node_id))
        self.cluster.remove_node(node, allow_graceful=False)
        self.cluster.add_node(**SIZES)
        return True

    def kill_actor(self, chance: random.Random) -> bool:
        """Kills a worker process of one of these raylets while it holds an actor."""
        raylets = {process.process.pid for node in self.cluster.worker_nodes for process in node.all_processes.get("raylet", ())}
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
            if parent in raylets and b"PartActor" in command:
                found.append(int(entry.name))
        if not found:
            return False
        os.kill(chance.choice(sorted(found)), signal.SIGKILL)
        return True


def encode_with_kills(command: list[str], raylets: Raylets, chance: random.Random, kills: Counter[str], log: Path) -> None:
    """Runs a command until it ends well. RuntimeError where it fails by itself, or does not end."""
    until = time.monotonic() + ROUND_S
    with log.open("ab") as output:
        while True:
            driver = subprocess.Popen(command, stdout=output, stderr=output)
            while driver.poll() is None:
                if time.monotonic() > until:
                    driver.kill()
                    raise RuntimeError(f"not done after {ROUND_S} s, see {log}")
                try:
                    driver.wait(chance.uniform(8, 40))
                except subprocess.TimeoutExpired:
                    kind = chance.choice(["driver", "actor", "actor", "raylet"])
                    if kind == "driver":
                        driver.kill()
                        kills[kind] += 1
                    else:
                        kills[kind] += (raylets.kill_actor if kind == "actor" else raylets.kill_node)(chance)
            if driver.returncode == 0:
                return
            if driver.returncode != -signal.SIGKILL:
                kills["failed, run again"] += 1
                if kills["failed, run again"] > 20:
                    raise RuntimeError(f"ended with {driver.returncode}, see {log}")


def differences(gallery: str, expected: dict[str, tuple[Any, ...]]) -> Counter[str]:
    """How many rows of a gallery are missing, doubled or wrong."""
    table = eet.open_gallery(gallery).table(["item_id", "code", "tokens", "status"])
    rows = list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    counted = Counter(row[0] for row in rows)
    return Counter(
        rows=len(rows),
        missing=len(expected.keys() - counted.keys()),
        doubled=sum(count - 1 for count in counted.values()),
        wrong=sum(expected.get(row[0]) != row[1:] for row in rows),
    )


def main(minutes: float, seed: int, folder: Path, copies: int) -> int:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    prepare(folder, copies)
    whole = eet.encode(folder / "model", folder / "images", tokens=True, threads=1, batch_size=8, rows_per_part=16, progress=False)
    table = whole.table(["item_id", "code", "tokens", "status"])
    expected = {row[0]: row[1:] for row in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)}
    chance, raylets = random.Random(seed), Raylets()
    totals: Counter[str] = Counter()
    started = time.monotonic()
    number = 0
    while time.monotonic() - started < 60 * minutes:
        kills: Counter[str] = Counter()
        out, log = folder / f"gallery-{number // 3}", folder / f"round-{number}.log"
        base = [sys.executable, "-m", "pipelines", "encode", "--model", str(folder / "model"), "--out", str(out)]
        base += ["--address", raylets.address, *OPTIONS]
        kind = ("new", "append", "overwrite")[number % 3]
        given = ["--images", str(folder / "half")] if kind == "new" else ["--images", str(folder / "images"), "--mode", kind]
        round_started = time.monotonic()
        encode_with_kills([*base, *given], raylets, chance, kills, log)
        wanted = {name: row for name, row in expected.items() if kind != "new" or int(name[:3]) < copies // 2}
        found = differences(str(out), wanted)
        left = [path.name for path in out.rglob(".*")] + [name for name in ("owner.json", "begun.json") if (out / name).exists()]
        found["left behind"] = len(left)
        print(f"round {number} ({kind}): {time.monotonic() - round_started:.0f} s, kills {dict(kills)}, {dict(found)}", flush=True)
        totals += Counter({f"killed: {name}": count for name, count in kills.items()}) + found + Counter(rounds=1)
        number += 1
    raylets.cluster.shutdown()
    print(f"\n| in {(time.monotonic() - started) / 60:.0f} min | |\n|---|--:|")
    names = ["rounds", "rows", "missing", "doubled", "wrong", "left behind", *sorted(name for name in totals if name.startswith("killed"))]
    for name in names:
        print(f"| {name} | {totals[name]} |")
    return int(any(totals[name] for name in ("missing", "doubled", "wrong", "left behind")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="is emptied first")
    parser.add_argument("--copies", type=int, default=60, help="names of each of the 48 images")
    given = parser.parse_args()
    sys.exit(main(given.minutes, given.seed, given.folder, given.copies))
