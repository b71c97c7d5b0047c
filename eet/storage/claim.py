"""Who is writing a folder: one job at a time, and a second one is refused while the first lives.

The holder is recorded in owner.json, a file in the folder. On a local disk the holder keeps it locked (flock), and the lock ends with the
process. Elsewhere, and for a holder on another machine, a sign of life counts: the holder writes the file again every few seconds. A
holder that does not counts as ended. No clocks are compared.
"""

import contextlib
import datetime
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow.fs as pafs

from eet.errors import InputError
from eet.storage.files import remove, write_text
from eet.storage.leftovers import is_at, lock
from eet.storage.location import absolute, join_location, resolve

OWNER_FILE = "owner.json"
RENEWED_EVERY_S = 10.0
"""Seconds between two signs of life."""
WATCHED_S = 45.0
"""After so many seconds without a sign of life, a holder on another machine counts as ended."""


class TakenOverError(InputError):
    """Another job has taken over the folder that this one was writing."""


@dataclass(frozen=True)
class Holder:
    """The contents of owner.json.

    Attributes:
        token: unique to this claim.
        host, pid: machine and process of the job.
        machine: names the current boot and container of the machine, so that a process from before a restart, or of another container, is
            not mistaken for one here.
        since: when it began, local time of that machine.
        signs: number of signs of life.
    """

    token: str
    host: str
    pid: int
    since: str
    machine: str
    signs: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.machine == _machine()


@dataclass(frozen=True)
class Claim:
    """A folder that this job holds. It can be sent to workers, whose working directory is another: its location is absolute."""

    location: str
    token: str

    def check(self) -> None:
        """TakenOverError where another job holds the folder now, or nobody."""
        holder = _read(self.location)
        if holder is None or holder.token != self.token:
            by = f"another job ({holder})" if holder else "nobody: its owner.json was removed"
            raise TakenOverError(f"{self.location} is held by {by}. This job has stopped; what it finished is kept")


@contextlib.contextmanager
def claimed(
    location: str,
    *,
    take_over: bool | None = False,
    notify: Callable[[str], object] = lambda line: None,
    renewed_every_s: float = RENEWED_EVERY_S,
    watched_s: float = WATCHED_S,
) -> Iterator[Claim]:
    """Holds a folder for this job until the block ends.

    A holder that is known to be gone is replaced: on this machine its lock is free, on another it gave no sign of life for `watched_s`.

    Args:
        location: local folder or URI; created if missing.
        take_over: replace the holder even if it lives. It stops before it writes its next file. None where the job cannot do that.
        notify: called with one-line messages for the user.
        renewed_every_s: seconds between two signs of life.
        watched_s: seconds for which a holder on another machine is watched.

    Raises:
        InputError: another job holds the folder.
    """
    location = str(absolute(location))
    filesystem, path = resolve(location)
    record = _LockedRecord(path) if isinstance(filesystem, pafs.LocalFileSystem) else _StoredRecord(location)
    mine = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), datetime.datetime.now().isoformat(" ", "seconds"), _machine())

    def refuse_living(holder: Holder, gone: bool | None) -> None:
        """gone: whether this holder is known to be gone (True) or to live (False); None where neither is known."""
        if take_over:
            notify(f"taking over {location} from {holder}")
            return
        if gone is None:
            notify(f"{location} is held by {holder}: waiting {watched_s:.0f} s for a sign of life")
            gone = _stays(record.trace, watched_s)
        if not gone:
            advice = "" if take_over is None else "; if you know that it is gone, take the folder over (--take-over)"
            raise InputError(
                f"{location} is being written by another job ({holder}): wait until it ends, stop it, or choose another folder{advice}"
            )
        notify(f"{location} was held by {holder}, which has ended: this job continues")

    record.take(mine, refuse_living)
    claim, ended = Claim(location, mine.token), threading.Event()

    def renew() -> None:
        while not ended.wait(renewed_every_s):
            with contextlib.suppress(OSError):  # a store that is away for a moment; the check before each file decides
                if (holder := _read(location)) is None or holder.token != mine.token:
                    return
                record.renew(mine)

    renewing = threading.Thread(target=renew, name="claim", daemon=True)
    renewing.start()
    try:
        yield claim
    finally:
        ended.set()
        renewing.join()
        record.release(mine)


def _read(location: str) -> Holder | None:
    filesystem, path = resolve(join_location(location, OWNER_FILE))
    try:
        with filesystem.open_input_file(path) as file:
            return _parsed(file.read())
    except FileNotFoundError:
        return None


def _parsed(contents: bytes) -> Holder | None:
    """The holder in a file's contents; None where it is empty or damaged, as after a kill while it was written."""
    try:
        values: Any = json.loads(contents)
        texts = {name: str(values[name]) for name in ("token", "host", "since", "machine")}
        return Holder(**texts, pid=int(values["pid"]), signs=int(values["signs"]))
    except (ValueError, KeyError, TypeError):
        return None


def _contents(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder)) + "\n").encode()


def _machine() -> str:
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return f"{socket.gethostname()} {file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _runs(pid: int) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _stays(trace: Callable[[], Any], seconds: float) -> bool:
    """Whether what `trace` returns stays the same for this time."""
    before, until = trace(), time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(0.5, seconds))
        if trace() != before:
            return False
    return True


_RefuseLiving = Callable[[Holder, bool | None], None]


class _LockedRecord:
    """owner.json on a local disk, locked while the folder is held. The time of its last change is the sign of life."""

    def __init__(self, folder: str) -> None:
        self._folder, self._path = folder, os.path.join(folder, OWNER_FILE)
        self._descriptor = -1
        self._made = False

    def take(self, mine: Holder, refuse_living: _RefuseLiving) -> None:
        self._made = not os.path.isdir(self._folder)
        os.makedirs(self._folder, exist_ok=True)
        while self._descriptor < 0:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if self._taken(descriptor, mine, refuse_living):
                    self._descriptor = descriptor
            finally:
                if self._descriptor != descriptor:
                    os.close(descriptor)

    def _taken(self, descriptor: int, mine: Holder, refuse_living: _RefuseLiving) -> bool:
        """Makes this job the holder. False where the file is being written, or was removed: to be tried again."""
        try:
            has_locks = lock(descriptor)
        except BlockingIOError:
            if (holder := _parsed(os.pread(descriptor, 4096, 0))) is None:
                time.sleep(0.01)
                return False
            refuse_living(holder, False if holder.is_here else None)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)  # the user takes the folder over, or its holder was on another machine and has gone silent
            return False
        if not is_at(descriptor, self._path):
            return False
        if (holder := _parsed(os.pread(descriptor, 4096, 0))) is not None:
            # Network disks may not share locks between machines, so a free lock proves nothing about another machine.
            refuse_living(holder, True if has_locks and holder.is_here else None)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _contents(mine), 0)
        os.fsync(descriptor)
        return True

    def renew(self, mine: Holder) -> None:
        os.utime(self._descriptor)

    def trace(self) -> Any:
        try:
            with open(self._path, "rb") as file:  # opening asks a network disk for the file as it is now
                return file.read(), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def release(self, mine: Holder) -> None:
        try:
            if is_at(self._descriptor, self._path):
                os.unlink(self._path)
                if self._made:  # a job that was refused leaves no empty folder
                    with contextlib.suppress(OSError):
                        os.rmdir(self._folder)
        finally:
            os.close(self._descriptor)


class _StoredRecord:
    """owner.json on any other store, written again and again as a sign of life."""

    def __init__(self, location: str) -> None:
        self._location, self._signs = location, 0

    def take(self, mine: Holder, refuse_living: _RefuseLiving) -> None:
        if (holder := _read(self._location)) is not None:
            refuse_living(holder, True if holder.is_here and not _runs(holder.pid) else None)
        self._write(mine)

    def renew(self, mine: Holder) -> None:
        self._signs += 1
        self._write(replace(mine, signs=self._signs))

    def trace(self) -> Any:
        return _read(self._location)

    def release(self, mine: Holder) -> None:
        holder = _read(self._location)
        if holder is not None and holder.token == mine.token:
            remove(join_location(self._location, OWNER_FILE))

    def _write(self, holder: Holder) -> None:
        write_text(join_location(self._location, OWNER_FILE), _contents(holder).decode())
