"""One command at a time in a folder of results."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zipr1.common.errors import InputError

LOCK = ".lock"


def lock(folder: Path) -> FileLock | None:
    """The lock of a folder, which is created where it is missing; None while another process holds
    it. The lock ends with its process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    found = FileLock(folder / LOCK, blocking=False)
    try:
        found.acquire()
    except Timeout:
        return None
    return found


def taken(folder: str | Path) -> InputError:
    """The error for a folder that another process is using."""
    return InputError(
        f"{folder}: zipr1 is running in this folder already; wait for it, stop it, or give another "
        "output_dir"
    )


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Keeps other processes of zipr1 out of `folder` as long as the block. Raises InputError where
    one is running in it."""
    held = lock(Path(folder))
    if held is None:
        raise taken(folder)
    try:
        yield
    finally:
        held.release()
