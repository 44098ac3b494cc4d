"""Numbers in LaTeX by math-verify, in a process of its own that a text can neither stop nor hang.

math-verify's own timeout is a signal: it works in the main thread only, and not while a C library
computes, as for 9^{9^{9^9}}.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path

from zipr1.common.errors import RunError
from zipr1.rewards.extra import library

LONGEST, DEEPEST, COMMANDS = 120, 10, 20  # characters, nested brackets and commands of a number
# How a text may end the worker: by its time limit, or by exhausting its memory or its stack.
_BY_THE_TEXT = {-signal.SIGXCPU, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGKILL, -signal.SIGBUS}


@lru_cache(4096)
def latex_value(latex: str) -> float | None:
    """The number that a LaTeX expression stands for; None if it is none, or takes too long."""
    if len(latex) > LONGEST or latex.count("\\") > COMMANDS or _depth(latex) > DEEPEST:
        return None
    return _worker.ask(latex)


def _depth(text: str) -> int:
    """How deep brackets are nested."""
    steps = ({"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(c, 0) for c in text)
    return max(accumulate(steps), default=0)


class _Worker:
    """The worker of this process, started at the first question and again after it ended."""

    def __init__(self):
        self.process: subprocess.Popen | None = None
        self.owner = 0  # process that started it: a fork must not share its pipes
        self.lock = threading.Lock()

    def ask(self, latex: str) -> float | None:
        with self.lock:
            if self.process is None or self.owner != os.getpid():
                self.start()
            try:
                self.process.stdin.write(json.dumps(latex) + "\n")
                self.process.stdin.flush()
                answer = self.process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            if answer:
                return json.loads(answer)
            status = self.process.wait()
            self.process = None
        if status in _BY_THE_TEXT:
            return None
        raise RunError(f"the process that reads LaTeX ended with status {status} on {latex!r}")

    def start(self) -> None:
        if find_spec("math_verify") is None:
            library("math_verify")  # raises with the name of the extra
        script = Path(__file__).with_name("latex_worker.py")
        # -P: its folder does not shadow other modules. By path, so that it imports nothing of ours.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.owner = os.getpid()
        if self.process.stdout.readline() != "ready\n":
            status, self.process = self.process.wait(), None
            raise RunError(f"the process that reads LaTeX could not start: status {status}")

    def stop(self) -> None:
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


_worker = _Worker()
atexit.register(_worker.stop)
