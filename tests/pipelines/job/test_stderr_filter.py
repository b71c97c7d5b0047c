"""What leaves a process through file descriptor 2 while the lines with a text are left out."""

import signal
import subprocess
import sys
from textwrap import dedent, indent

import pytest

TEXT = "the line of a library"
PROGRAM = """
import os, signal, subprocess, sys
from pipelines.job.stderr_filter import stderr_without

TEXT = "the line of a library"

def native(text):
    os.write(2, text.encode())

native(f"before: {TEXT}\\n")
with stderr_without(TEXT):
"""


def run(within: str, after: str = "") -> tuple[str, int]:
    """stderr and exit code of a process that does `within` while lines are left out, and `after` when they are no longer."""
    program = PROGRAM + indent(dedent(within), "    ") + dedent(after) + '\nnative(f"after: {TEXT}\\n")\n'
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, start_new_session=True)
    assert done.stdout == b""
    return done.stderr.decode(errors="replace"), done.returncode


def test_only_lines_with_the_text_are_left_out_and_only_within():
    shown, code = run(r"""
        native("one\n")
        native(f"\x1b[31m[2026 E 1 2] core.cc:3: {TEXT}, and more\x1b[m\n")
        native("two ")
        native("halves\n")
        os.write(2, b"no text: \xff\xfe\n")
        native("without an end")
    """)
    assert code == 0
    assert shown.splitlines() == [f"before: {TEXT}", "one", "two halves", "no text: ��", "without an end", f"after: {TEXT}"]


def test_pythons_own_stderr_is_not_filtered_and_is_put_back():
    shown, code = run(
        """
        assert sys.stderr.fileno() != 2
        print("python:", TEXT, file=sys.stderr)
        """,
        """
        assert sys.stderr.fileno() == 2
        """,
    )
    assert (code, shown) == (0, f"before: {TEXT}\npython: {TEXT}\nafter: {TEXT}\n")


@pytest.mark.parametrize("crash", ["os.kill(os.getpid(), signal.SIGKILL)", "os.abort()"])
def test_what_a_process_wrote_before_it_crashed_is_not_lost(crash):
    shown, code = run(f"""
        native("the reason\\n")
        {crash}
    """)
    assert code in (-signal.SIGKILL, -signal.SIGABRT)
    assert "the reason\n" in shown and "after" not in shown


def test_an_interrupt_of_the_whole_group_does_not_end_the_filter():
    shown, code = run("""
        try:
            os.killpg(os.getpgrp(), signal.SIGINT)
        except KeyboardInterrupt:
            native(f"interrupted, {TEXT}\\n")
            native("interrupted\\n")
    """)
    assert (code, shown) == (0, f"before: {TEXT}\ninterrupted\nafter: {TEXT}\n")


def test_an_error_within_is_raised_and_descriptor_2_is_put_back():
    shown, code = run(
        """
        try:
            with stderr_without("another"):
                raise ValueError("an own error")
        except ValueError as error:
            native(f"{error}\\n")
        """
    )
    assert (code, shown) == (0, f"before: {TEXT}\nan own error\nafter: {TEXT}\n")


def test_without_grep_everything_is_shown():
    shown, code = run(
        """
        os.environ["PATH"] = "/nowhere"
        with stderr_without("interior"):
            native("interior\\n")
        """
    )
    assert (code, shown) == (0, f"before: {TEXT}\ninterior\nafter: {TEXT}\n")
