"""Progress on stderr: bars on a terminal, lines in a file, and a sign of life of a slow step."""

import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

PATIENCE = 4.0  # seconds that a step may take in silence
SHORTEST, LONGEST = 5.0, 60.0  # seconds between two lines of a bar that is written to a file


class Bar(tqdm):
    """A tqdm that also shows how time passes while a step takes long."""

    def __init__(self, *arguments: Any, **settings: Any):
        self.closed = threading.Event()
        self.ticker = threading.Thread(target=self.tick, daemon=True)
        super().__init__(*arguments, **settings)
        if not self.disable:
            self.ticker.start()

    def tick(self) -> None:
        while not self.closed.wait(PATIENCE):
            self.refresh()

    def stop(self) -> None:
        self.closed.set()
        if self.ticker.is_alive():
            self.ticker.join()

    def close(self) -> None:
        self.stop()
        super().close()


class Lines(Bar):
    """A tqdm for a file: whole lines without control characters, more and more rarely.

    The first line comes at once and the last at the end; between them a line is written when the
    elapsed time has grown by a twentieth.
    """

    shown: float | None = None  # when the last line was written

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        now = time.time()
        elapsed = now - getattr(self, "start_t", now)  # set after the first line
        wait = min(max(elapsed / 20, SHORTEST), LONGEST)
        if self.shown is None or now - self.shown >= wait:
            self.shown = now
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def close(self) -> None:
        if not self.disable:
            self.stop()
            self.disable = True
            self._decr_instances(self)
            self.shown = None
            self.display()

    def clear(self, nolock: bool = False) -> None:
        """Nothing to erase."""

    def moveto(self, n: int) -> None:
        """Lines stay where they are."""


def progress(*arguments: Any, **settings: Any) -> tqdm:
    """tqdm(...), whose output suits where stderr goes."""
    if sys.stderr.isatty():
        return Bar(*arguments, **settings)
    return Lines(*arguments, **{"mininterval": 1.0, "ncols": 0} | settings)


@contextmanager
def announced(step: str) -> Iterator[None]:
    """Names a step on stderr if it takes longer than `PATIENCE`, then more and more rarely."""
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        wait = PATIENCE
        while not done.wait(wait):
            seconds = time.monotonic() - began
            print(f"zipr1: {step} ({seconds:.0f} s)", file=sys.stderr, flush=True)
            wait = min(max(seconds / 2, PATIENCE), LONGEST)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def quiet_libraries() -> None:
    """Keeps bars and warnings of other packages off the terminal, in child processes too.

    Warnings that name zipr1's own modules stay, and all do under `python -W` or PYTHONWARNINGS.
    Bars of downloads stay too.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("default", module=r"zipr1(\.|$)")


def quiet_transformers() -> None:
    """Switches off the bars of transformers ("Loading weights"), which has no setting for it."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if not os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
        enable_progress_bars()  # of downloads
