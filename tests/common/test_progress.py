"""What a command writes to a file instead of a terminal while it works."""

import os
import subprocess
import sys
import termios
import time

from zipr1.common import progress as module
from zipr1.common.progress import announced, progress


def test_a_bar_in_a_file_is_lines_without_control_characters(capsys):
    with progress(total=3, desc="reading", unit="row") as bar:
        for _ in range(3):
            bar.set_postfix(ratio=0.5)
            bar.update()
    lines = capsys.readouterr().err.split("\n")
    assert lines[-1] == "" and len(lines) == 3  # the first, the last, and none between in no time
    assert lines[0].startswith("reading: ") and "0/3" in lines[0]
    assert "3/3" in lines[1] and "ratio=0.5" in lines[1]
    assert not any(character in line for line in lines for character in "\r\x1b\b")


def test_lines_come_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(module, "SHORTEST", 0.2)
    for _ in progress(range(12), desc="slow", mininterval=0.01):
        time.sleep(0.05)
    assert 4 <= len(capsys.readouterr().err.splitlines()) <= 6


def test_a_slow_step_of_a_bar_is_not_silent(capsys, monkeypatch):
    monkeypatch.setattr(module, "SHORTEST", 0.1)
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with progress(total=1, desc="bench") as bar:
        time.sleep(0.55)
        lines = capsys.readouterr().err.splitlines()
        bar.update()
    assert 4 <= len(lines) <= 6 and all("0/1" in line for line in lines)
    assert "1/1" in capsys.readouterr().err.splitlines()[-1]
    time.sleep(0.25)
    assert capsys.readouterr().err == ""


def test_a_bar_that_is_not_left_behind_writes_lines_too(capsys):
    assert list(progress(range(2), desc="short", leave=False)) == [0, 1]
    assert "2/2" in capsys.readouterr().err.splitlines()[-1]


def test_a_terminal_gets_a_bar():
    """A pseudo-terminal shows what a user sees."""
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    code = "from zipr1.common.progress import progress; list(progress(range(2), desc='bar'))"
    subprocess.run([sys.executable, "-c", code], stderr=writer, check=True)
    os.close(writer)
    assert "\rbar: 100%" in os.read(reader, 10_000).decode()
    os.close(reader)


def test_a_slow_step_is_named_and_a_quick_one_is_not(capsys, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with announced("quick"):
        pass
    with announced("loading a model"):
        time.sleep(0.35)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3 and lines[0] == "zipr1: loading a model (0 s)"
