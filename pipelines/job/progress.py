"""Displays of long work: a bar on a terminal, lines elsewhere.

This module must not import torch: the process of a progress board imports the classes of its events.
"""

import sys
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EpochDone:
    """One epoch. metrics: mean loss terms, learning rate, images/s, and validation mAP where there is one."""

    epoch: int
    epochs: int
    metrics: dict[str, float] = field(default_factory=dict)


class Display:
    """The display of long work: a bar with images/s and time left on a terminal, lines elsewhere."""

    def __init__(self, description: str) -> None:
        self._live: Any = None
        if sys.stdout.isatty():
            from rich.live import Live
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            rate = TextColumn("{task.fields[rate]:.1f} images/s")
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(), rate, TextColumn("left"), TimeRemainingColumn())
            self._task = self._bar.add_task(description, total=None, rate=0.0)
            self._live = Live(self._bar, refresh_per_second=4)
            self._live.start()

    @property
    def on_terminal(self) -> bool:
        return self._live is not None

    def line(self, text: str) -> None:
        """Prints a permanent line."""
        if self._live is not None:
            self._live.console.print(text, highlight=False)
        else:
            print(text, flush=True)

    def move(self, description: str, *, done: int, total: int, rate: float, details: str = "") -> None:
        """Moves the bar, with details below it; does nothing without a bar."""
        if self._live is None:
            return
        from rich.console import Group
        from rich.text import Text

        self._bar.update(self._task, description=description, total=total, completed=done, rate=rate)
        self._live.update(Group(self._bar, Text(details, style="dim")) if details else self._bar)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class TrainingDisplay:
    """A bar per epoch on a terminal, the loss terms below it; one line per epoch everywhere.

    Events: EpochDone, and StepReport of `eet.training`.
    """

    def __init__(self, title: str, epochs: int) -> None:
        self._epochs = epochs
        self._started = time.monotonic()
        self._first_epoch: int | None = None
        self._display = Display(f"{title}: starting")

    def __call__(self, event: Any) -> None:
        if isinstance(event, EpochDone):
            self._display.line(self.epoch_line(event))
            return
        losses = "  ".join(f"{name} {value:.3f}" for name, value in event.losses.items())
        described = f"epoch {event.epoch + 1}/{self._epochs}"
        self._display.move(described, done=event.step + 1, total=event.steps, rate=event.rate, details=losses)

    def epoch_line(self, event: EpochDone) -> str:
        """'epoch 3/20  total 1.234  ...  val mAP 0.41  9.1 images/s  12 min left'."""
        if self._first_epoch is None:
            self._first_epoch = event.epoch
        done = event.epoch - self._first_epoch + 1
        left_s = (time.monotonic() - self._started) / done * (event.epochs - event.epoch - 1)
        parts = [f"epoch {event.epoch + 1}/{event.epochs}"]
        parts += [f"{name} {value:.4g}" for name, value in event.metrics.items() if name not in ("images_per_s", "learning_rate")]
        parts.append(f"{event.metrics.get('images_per_s', 0.0):.1f} images/s")
        parts.append(f"{duration(left_s)} left" if left_s else "done")
        return "  ".join(parts)

    def close(self) -> None:
        self._display.close()


def duration(seconds: float) -> str:
    """'42 s', '12 min', '3.1 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class EncodeProgress:
    """Shows rows done, failures, rows/s and time left: a bar on a terminal; elsewhere a line at the first part and every half minute. At
    the end it prints a line.

    Rows of parts that are being encoded count as done, failures once their part is on disk. Rows/s are counted from the first event on, so
    that the start of workers is not included. Events: PartDone and RowsDone of `eet.gallery.encoding`.
    """

    EVERY_S = 30.0

    def __init__(self, total: int) -> None:
        self.total, self.finished, self.failed = total, 0, 0
        self.seen: set[int] = set()
        self.in_progress: dict[int, int] = {}
        self.first: tuple[float, int] | None = None
        self.started = self.reported = time.monotonic()
        self.display = Display("encoding")

    def __call__(self, event: Any) -> None:
        if event.part in self.seen:  # encoded again after a worker was lost
            return
        statuses = getattr(event, "statuses", None)
        if statuses is None:
            self.in_progress[event.part] = event.rows
        else:
            self.seen.add(event.part)
            self.in_progress.pop(event.part, None)
            self.finished += event.rows
            self.failed += event.rows - statuses.get("ok", 0)
        now, done = time.monotonic(), self.finished + sum(self.in_progress.values())
        since, before = self.first or (self.started, 0)
        self.first = self.first or (now, done)
        rate = max(done - before, 1) / max(1e-9, now - since)
        self.display.move("encoding", done=done, total=self.total, rate=rate, details=f"{self.failed} failed" if self.failed else "")
        first_part = statuses is not None and len(self.seen) == 1
        last = self.finished >= self.total
        if last:
            self.display.close()
        if last or not self.display.on_terminal and (first_part or now - self.reported >= self.EVERY_S):
            self.reported = now
            left = duration((self.total - done) / rate)
            self.display.line(f"encoded {done}/{self.total}  {self.failed} failed  {rate:.1f} images/s  {left} left")

    def close(self) -> None:
        """Ends the display of work that stopped early."""
        self.display.close()
