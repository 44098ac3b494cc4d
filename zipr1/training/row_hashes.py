"""Whether a resumed run has the rows that it was started with."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from zipr1.common.files import CheckpointError
from zipr1.data.example import Example
from zipr1.data.rows import Rows

SOME = 64  # rows to train on whose texts are compared

RowHashes = dict[str, tuple[int, str]]


def row_hashes(rows: Rows | None, probe: Iterable[Example]) -> RowHashes:
    """Of `data` the number of rows and a hash of some, of `probe_data` those that are measured;
    prompts and answers count, media do not. Empty for the embedded tasks, which do not change."""
    if rows is None:
        return {}
    places = sorted({place * len(rows) // SOME for place in range(SOME)})
    probed = [text(example) for example in probe]
    return {
        "data": (len(rows), digest(row_text(rows, place) for place in places)),
        "probe_data": (len(probed), digest(probed)),
    }


def row_text(rows: Rows, place: int) -> str:
    try:
        return text(rows.row(place).example)
    except ValueError as error:  # a malformed row, which the run leaves out
        return type(error).__name__


def text(example: Example) -> str:
    return repr((example.question, example.answer, example.messages))


def digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode(errors="surrogatepass")).hexdigest()[:16]


def check_row_hashes(checkpoint: Path, before: RowHashes | None, now: RowHashes) -> None:
    """Raises CheckpointError where a run goes on with other rows; before: None in a checkpoint of
    version 0.1."""
    for name in now if before else ():
        (old, old_hash), (new, new_hash) = before[name], now[name]
        if (old, old_hash) != (new, new_hash):
            what = f"{old} rows, now {new}" if old != new else f"{old} rows with other texts"
            raise CheckpointError(
                f"{checkpoint}: was written with {name} of {what}; resume with the same rows, or "
                "choose another output_dir"
            )
