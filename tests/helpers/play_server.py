"""`zipr1 play zipr1/tiny` in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_S = 120  # imports included, on a busy machine


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def served(folder: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """(its address, its process); uploads and images go below `folder`."""
    port = free_port()
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"GRADIO_TEMP_DIR": str(folder / "uploads")}
    command = [sys.executable, "-m", "zipr1.cli", "play", "zipr1/tiny", "--port", str(port), *flags]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stderr=log, cwd=folder, env=os.environ | environment)
    try:
        ends = time.monotonic() + START_S
        while "Ctrl-C ends it" not in (text := (folder / "log").read_text()):
            assert server.poll() is None and time.monotonic() < ends, text
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
