"""Ctrl-C while libraries are imported, the first seconds of a command."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def exit_at_ctrl_c() -> Iterator[None]:
    """Inside the block, SIGINT ends the process at once with status 130 and one line.

    A KeyboardInterrupt that is raised inside an import can be swallowed by a callback or come out
    as another error. A handler that a caller of `main` installed stays.
    """
    ours = threading.current_thread() is threading.main_thread()  # others cannot set handlers
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"zipr1: error: interrupted\n")
    os._exit(130)
