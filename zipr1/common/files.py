"""Files that are either complete or absent, and an error that names the one that could not be written."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zipr1.common.errors import RunError


class CheckpointError(RunError):
    """A checkpoint, or the final model, could not be written or does not fit the run."""


def cut(path: Path, start: int) -> None:
    """Leaves the rows up to step `start`; none of a run that begins anew."""
    if path.exists():
        whole = [
            row for row in path.read_text().splitlines(keepends=True) if row.endswith("\n")
        ]  # the last was perhaps cut
        replace(path, "".join(row for row in whole if start and json.loads(row)["step"] <= start))


def append(path: Path, rows: list[dict]) -> None:
    """A line a row. Raises CheckpointError where the disk is full."""
    with room(path), path.open("a") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def replace(path: Path, text: str) -> None:
    """Writes a file that is the old one or the new one, whenever the run is killed. Raises CheckpointError as `append`."""
    beside = path.with_name(f"new-{path.name}")
    with room(path):
        beside.write_text(text)
        beside.replace(path)


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Says which file it was that could not be written."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path}: could not be written ({error}); free some space and use --resume"
        ) from error
