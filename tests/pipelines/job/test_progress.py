"""The displayed progress of jobs, with a clock that the test sets."""

import re

import pytest

from eet.gallery.encoding import PartDone, RowsDone
from eet.training import StepReport
from pipelines.job import progress as progress_module
from pipelines.job.progress import EncodeProgress, EpochDone, TrainingDisplay


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress_module.time, "monotonic", lambda: Clock.now)
    return Clock


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_long_part_is_reported_every_half_minute_before_it_is_done(clock, capsys):
    progress = EncodeProgress(1000)
    for second in range(0, 100, 5):  # 4 rows/s after 20 s of starting workers
        clock.now = 1020 + second
        progress(RowsDone(0, 4 * second))
    printed = lines(capsys)
    assert [int(re.match(r"encoded (\d+)/1000", line)[1]) for line in printed] == [40, 160, 280]
    assert printed[-1] == "encoded 280/1000  0 failed  4.0 images/s  3 min left"


def test_parts_on_disk_count_once_and_with_their_failures(clock, capsys):
    progress = EncodeProgress(30)
    progress(RowsDone(0, 5))
    progress(PartDone(0, {"ok": 8, "truncated": 2}, True))
    assert "encoded 10/30  2 failed" in lines(capsys)[0]
    progress(PartDone(0, {"ok": 8, "truncated": 2}, True))  # again after a worker was lost
    progress(RowsDone(0, 9))
    clock.now += 10
    progress(RowsDone(1, 6))
    progress(RowsDone(1, 2))  # started again elsewhere
    assert lines(capsys) == []
    clock.now += 25
    progress(RowsDone(2, 4))
    assert "encoded 16/30  2 failed" in lines(capsys)[0]
    for part in (1, 2):
        progress(PartDone(part, {"ok": 10}, True))
    assert lines(capsys)[-1].startswith("encoded 30/30  2 failed") and progress.in_progress == {}


def test_a_terminal_shows_the_losses_of_a_step_and_keeps_a_line_of_each_epoch(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    display = TrainingDisplay("distill", epochs=3)
    display(StepReport(epoch=0, step=4, steps=10, losses={"total": 1.5}, rate=12.0))
    display(EpochDone(0, 3, {"total": 1.25, "images_per_s": 11.0}))
    display(StepReport(epoch=1, step=9, steps=10, losses={"total": 0.75}, rate=13.0))
    display.close()
    shown = capsys.readouterr().out
    assert "epoch 1/3  total 1.25  11.0 images/s" in shown
    assert shown.rindex("total 0.750") > shown.index("epoch 2/3") > shown.index("epoch 1/3  total")
