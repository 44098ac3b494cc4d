"""Files that are either complete or absent, and an error that names one that cannot be written."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zipr1.common.errors import RunError


class CheckpointError(RunError):
    """A file of a run could not be written, or a checkpoint does not fit the run."""


def replace(path: Path, text: str) -> None:
    """Writes a text file atomically: a killed process leaves the old file or the new one.

    Raises CheckpointError where it cannot be written.
    """
    new = path.with_name(f"new-{path.name}")
    with named_failure(path):
        new.write_text(text, encoding="utf-8")
        new.replace(path)


def append(path: Path, rows: list[dict]) -> None:
    """Appends rows as JSON lines. Raises CheckpointError where they cannot be written."""
    with named_failure(path), path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def cut(path: Path, start: int) -> None:
    """Drops the rows after step `start`, and a last line that was not written to its end.

    A run that begins anew, at step 0, keeps no row.
    """
    if path.exists():
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            complete = [line for line in lines if line.endswith("\n")]
            kept = [line for line in complete if start and json.loads(line)["step"] <= start]
        except (OSError, ValueError, RecursionError, TypeError, LookupError) as error:
            raise CheckpointError(
                f"{path}: a line is no row with a step ({error}); the run's own rows would be "
                "deleted: correct the file, or move it away"
            ) from error
        replace(path, "".join(kept))


@contextmanager
def named_failure(path: Path) -> Iterator[None]:
    """Turns an OSError into a CheckpointError that names the file."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path}: could not be written ({error}); free some space, and use --resume where the "
            "command has it"
        ) from error
