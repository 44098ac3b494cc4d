"""Results on stdout."""

import os
import sys

BROKEN_PIPE = 141  # the exit status that a shell shows for a process that SIGPIPE has ended


def write(text: str) -> None:
    """Prints a result. Where nobody reads it, as after `zipr1 --help | head -1`, the process ends
    without a word: SystemExit."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is left in the buffer would be written at the end of the process, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
