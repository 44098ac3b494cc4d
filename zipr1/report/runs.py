"""A folder that eval, demo or train wrote -> what is in it."""

import json
from dataclasses import dataclass
from pathlib import Path

from zipr1.evaluation.curves import Curves, read_curves
from zipr1.evaluation.paper.rows import PaperRow, read_paper_rows
from zipr1.evaluation.records import Record, read_records
from zipr1.evaluation.tables import Table, read_table

KNOWN = (
    "table.json",
    "tables.json",
    "curve.json",
    "records*.jsonl",
    "metrics.jsonl",
    "*/metrics.jsonl",
)
# The demo's files of records, in the order and under the names of its table.
DEMO = {"full": "Full", "zipvl": "ZipVL", "paper": "ZipR1 (paper)", "exact": "ZipR1 (exact)"}


@dataclass(frozen=True)
class Run:
    """What one folder holds; empty where it has none of a kind."""

    name: str  # the folder, as given
    provenance: dict  # commit, command, device, versions
    settings: dict
    rows: list[dict]  # `TableRow.to_json`
    suite: list[PaperRow]
    failed: dict[str, str]  # of the suite: what has no number, and why
    curves: Curves
    priors: dict[
        str, float
    ]  # of the suite tiny13: what a task's questions give away without their pictures
    unlearned: list[str]  # and the tasks that Full does not answer well above it
    training: dict[str, Path]  # metrics.jsonl of each training
    samples: dict[str, list[dict]]  # and answers of its last measurement
    records: dict[str, list[Record]]  # by method


def read_run(folder: Path) -> Run:
    """Raises ValueError or FileNotFoundError for a folder in which nothing is known, or whose files are broken."""
    found = [path for pattern in KNOWN for path in sorted(folder.glob(pattern))]
    if not found:
        missing = "nothing to report in it" if folder.is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{folder}: {missing}; expected a folder of zipr1 eval, demo or train, with one of {', '.join(KNOWN)}"
        )
    table = read_table(folder / "table.json") if (folder / "table.json").is_file() else Table([])
    suite, failed, suite_origin = [], {}, {}
    if (folder / "tables.json").is_file():
        suite, failed, suite_origin = read_paper_rows(folder / "tables.json")
    curves = {}
    if (folder / "curve.json").is_file():
        curves = read_curves(folder / "curve.json", table)
    origins = [table.origin | {"config": table.config} if table.config else table.origin]
    origins += [suite_origin, *(read_json(folder / name) for name in ("config.json", "run.json"))]
    origin = next((one for one in origins if isinstance(one, dict) and "commit" in one), {})
    records: dict[str, list[Record]] = {}
    files = {
        path.stem.removeprefix("records").removeprefix("-"): path
        for path in found
        if path.name.startswith("records")
    }
    for kind in sorted(files, key=lambda kind: [*DEMO, kind].index(kind)):
        for record in read_records(files[kind]):
            records.setdefault(DEMO.get(kind, kind) or record.method, []).append(record)
    training = {path.resolve().parent.name: path for path in found if path.name == "metrics.jsonl"}
    return Run(
        name=str(folder),
        provenance=origin
        and {name: origin.get(name) for name in ("command", "commit", "device", "versions")},
        settings={name: origin[name] for name in ("config", "demo", "train") if name in origin},
        rows=[row.to_json() for row in table.rows],
        suite=suite,
        failed=failed,
        curves=curves,
        priors=table.priors,
        unlearned=table.unlearned,
        training=training,
        samples={
            name: shown
            for name, path in training.items()
            if (shown := last_samples(path.with_name("samples.jsonl")))
        },
        records=records,
    )


def last_samples(path: Path) -> list[dict]:
    """Of the last step that has some. Raises ValueError where there is no JSON in it."""
    try:
        rows = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        )
    except ValueError as error:
        raise ValueError(
            f"{path}: not JSON lines ({error}); take the file away, or train again"
        ) from error
    return [row for row in rows if row["step"] == rows[-1]["step"]]


def read_json(path: Path):
    """None where there is no such file. Raises ValueError where there is no JSON in it."""
    try:
        return json.loads(path.read_text()) if path.is_file() else None
    except ValueError as error:
        raise ValueError(
            f"{path}: not JSON ({error}); run the command that wrote it again"
        ) from error
