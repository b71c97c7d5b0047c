"""Runs jobs again and again, each time with a fault at another file event; started with faults.c preloaded.

Usage: fault_runner.py LIBRARY WORK. Reads jobs from stdin, a JSON line each, and answers each with a JSON line. A job runs in a copy of its
template at the path WORK, in a fork of this process, which has imported everything. The first time that a job is read it runs without a
fault: its events are counted and its result is the reference. Then for each point n it runs with a fault at event n, and again without one.

    name, template, argv
    fault       "kill", or "full" for a full disk
    points      a number of points, evenly spread, or 0 for all
    swapped     folders or files that after the fault must be as in the template or as in the reference
    compared    files that must be as in the reference at the end; empty for all
"""

import ctypes
import gc
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from pipelines import cli


def tree(root: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file; folders are named with a slash."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        found[name if path.is_file() else f"{name}/"] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


def part_of(files: dict[str, str], name: str) -> dict[str, str]:
    return {path: value for path, value in files.items() if path.rstrip("/") == name or path.startswith(f"{name}/")}


class Runner:
    def __init__(self, library: str, work: Path) -> None:
        self.faults = ctypes.CDLL(library)
        self.faults.faults_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
        self.faults.faults_seen.restype = ctypes.c_long
        self.work = work
        self.log = work.with_name(f"{work.name}.log")
        self.untouched: dict[str, tuple[dict[str, str], int, dict[str, str]]] = {}

    def reset(self, template: str) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(template, self.work, symlinks=True)

    def run(self, argv: list[str], event: int | None, *, full: bool = False) -> tuple[int, int]:
        """(exit code or -signal, events seen) of one run; event None: no fault and no counting, 0: counting."""
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(read)
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.chdir(self.work)
                if event is not None:
                    self.faults.faults_arm(os.fsencode(f"{self.work}/"), event, int(full))
                code = 1
                try:
                    code = cli.main(argv) or 0
                except SystemExit as leaving:
                    code = leaving.code if isinstance(leaving.code, int) else 1
                sys.stdout.flush()
                os.write(write, str(self.faults.faults_seen()).encode())
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                code = 70
            os._exit(code)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            seen = int(pipe.read() or b"0")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seen

    def job(
        self, name: str, template: str, argv: list[str], fault: str, points: int, swapped: list[str], compared: list[str]
    ) -> dict[str, Any]:
        if name not in self.untouched:
            self.reset(template)
            before = tree(self.work)
            code, events = self.run(argv, 0)
            assert code == 0 and events, (name, code, self.log.read_text())
            self.untouched[name] = before, events, tree(self.work)
        before, events, reference = self.untouched[name]
        every = range(1, events + 1)
        chosen = every if not points else sorted({every[int((n + 0.5) * events / points)] for n in range(points)})
        result: dict[str, Any] = {"name": name, "fault": fault, "events": events, "points": len(chosen), "stopped": 0, "bad": []}
        for point in chosen:
            self.reset(template)
            code, _ = self.run(argv, point, full=fault == "full")
            result["stopped"] += code != 0
            said = self.log.read_text()
            if fault == "kill" and code != -signal.SIGKILL:
                result["bad"].append([point, f"ended with {code} although it was killed"])
            if fault == "full" and (code not in (0, 1) or "Traceback" in said):
                result["bad"].append([point, f"ended with {code}: {said[-600:]}"])
            now = tree(self.work)
            for place in swapped:
                if part_of(now, place) not in (part_of(before, place), part_of(reference, place)):
                    result["bad"].append([point, f"{place} is neither the old nor the new one: {sorted(part_of(now, place))}"])
            code, _ = self.run(argv, None)
            said = self.log.read_text()
            if code:
                result["bad"].append([point, f"the same command ended with {code}: {said[-600:]}"])
                continue
            now = tree(self.work)
            if names := [path for path in compared or sorted({*now, *reference}) if now.get(path) != reference.get(path)]:
                result["bad"].append([point, f"the result differs from that of an untouched run in {names}"])
        return result


def main(library: str, work: str) -> None:
    torch.set_num_threads(1)
    runner = Runner(library, Path(work))
    for line in sys.stdin:
        job = json.loads(line)
        importlib.import_module(f"pipelines.{job['argv'][0]}")
        gc.freeze()  # collecting what was imported would copy it in every fork
        print(json.dumps(runner.job(**job)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
