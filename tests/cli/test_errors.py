"""What a user sees when something goes wrong: one line for what he can act on, else a traceback."""

import signal
import subprocess
import sys
import time

import pytest
from command_line import run

from zipr1.cli import runners
from zipr1.common.errors import InputError, MissingExtra, RunError


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError("a.png: no such file"), 2, "zipr1: error: a.png: no such file\n"),
        (RunError("first line\n second"), 1, "zipr1: error: first line second\n"),
        (MissingExtra("pip install it"), 1, "zipr1: error: pip install it\n"),
        (OSError(28, "No space left on device"), 1, "No space left on device\n"),
        (KeyboardInterrupt(), 130, "zipr1: error: interrupted\n"),
    ],
)
def test_what_a_user_can_act_on_is_one_line(capsys, monkeypatch, error, status, text):
    def fail(config):
        raise error

    monkeypatch.setattr(runners, "plan", fail)
    got, out, err = run(capsys, "plan", "tiny_demo")
    assert (got, out) == (status, "") and err.endswith(text) and err.count("\n") == 1


@pytest.mark.parametrize("kind", [ValueError, TypeError, KeyError, RuntimeError, ImportError])
def test_a_bug_keeps_its_traceback(capsys, monkeypatch, kind):
    def fail(config):
        raise kind("a bug")

    monkeypatch.setattr(runners, "plan", fail)
    with pytest.raises(kind, match="a bug"):
        run(capsys, "plan", "tiny_demo")


@pytest.mark.parametrize("seconds", [0, 0.3, 1, 2])
def test_ctrl_c_ends_a_command_with_one_line(tmp_path, seconds):
    """While libraries are imported, which takes the first seconds of any command; counted from
    when the handler is there."""
    code = f"""
import sys
from contextlib import contextmanager
from zipr1.cli import main

@contextmanager
def told(real=main.exit_at_ctrl_c):
    with real():
        print('ready', file=sys.stderr, flush=True)
        yield

main.exit_at_ctrl_c = told
main.main(['bench', '--output_dir', {str(tmp_path)!r}])
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "ready\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if "importing" not in line]
    assert process.returncode == 130 and lines == ["zipr1: error: interrupted"]


def test_ctrl_c_that_an_import_swallows_ends_a_command_too():
    """As a callback of an import does: without the handler the command would go on."""
    code = """
import os, signal, sys

class Swallows:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                pass

sys.meta_path.insert(0, Swallows())
from zipr1.cli.main import main
main(["plan", "tiny_demo"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "zipr1: error: interrupted\n"
