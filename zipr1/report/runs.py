"""A folder that eval, demo, train or bench wrote -> what is in it, and what cannot be read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from zipr1.common.documents import read_json, read_lines
from zipr1.common.errors import InputError
from zipr1.evaluation.curves import Curves, read_curves
from zipr1.evaluation.paper.rows import PaperRow, read_paper_rows
from zipr1.evaluation.records import Record, readable_records
from zipr1.evaluation.tables import Table, read_table
from zipr1.report.benches import FILES, Bench, read_bench

KNOWN = (
    "table.json",
    "tables.json",
    "curve.json",
    "records*.jsonl",
    "metrics.jsonl",
    "*/metrics.jsonl",
    *FILES,
)
# The demo's files of records, in the order and under the names of its table.
DEMO = {
    "full": "Full",
    "zipvl": "ZipVL",
    "paper": "ZipR1 (paper)",
    "exact": "ZipR1 (exact)",
    "topk": "TopK",
    "downsample": "Downsampled",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """The content of one folder; empty where a part is absent.

    provenance: command, commit, device, versions. rows: `TableRow.to_json` of the table. suite:
    rows of the paper's tables, and failed: why a benchmark has no number. priors: accuracy of each
    tiny13 task without its images, and unlearned: the tasks on which Full is not well above it.
    training: rows of metrics.jsonl of each training, and samples: answers of its last measurement.
    records: by method. benches: tables of measured times. files: what was read. problems: "file:
    why", or "file:line: why", of what cannot be read.
    """

    name: str  # the folder, as given
    provenance: dict
    settings: dict
    rows: list[dict]
    suite: list[PaperRow]
    failed: dict[str, str]
    curves: Curves
    priors: dict[str, float]
    unlearned: list[str]
    training: dict[str, list[dict]]
    samples: dict[str, list[dict]]
    records: dict[str, list[Record]]
    benches: list[Bench]
    files: list[Path]
    problems: list[str]


def read_run(folder: Path) -> Run:
    """Reads what a folder has. A file or a line that cannot be read, such as the last one of a run
    that was killed, is named in `problems`.

    Raises InputError for a folder in which nothing is known, or nothing can be read.
    """
    files = known_files(folder)
    problems: list[str] = []
    table = attempt(problems, read_table, folder / "table.json", Table([]))
    suite, failed, origin = attempt(problems, read_paper_rows, folder / "tables.json", ([], {}, {}))
    curves = attempt(
        problems, lambda path: read_curves(path, table), folder / "curve.json", default={}
    )
    origins = [table.origin | {"config": table.config} if table.config else table.origin, origin]
    found = [attempt(problems, read_bench, path, None) for path in files if path.name in FILES]
    benches = [one for one in found if one is not None]
    origins += [one.origin for one in benches]
    origins += [
        attempt(problems, read_json, folder / name, {}) for name in ("config.json", "run.json")
    ]
    origin = next((one for one in origins if isinstance(one, dict) and "commit" in one), {})
    metrics = [path for path in files if path.name == "metrics.jsonl"]
    run = Run(
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
        training=by_training(metrics, "metrics.jsonl", problems),
        samples={
            name: [row for row in rows if row["step"] == rows[-1]["step"]]
            for name, rows in by_training(metrics, "samples.jsonl", problems).items()
        },
        records=records_of(files, problems),
        benches=benches,
        files=files,
        problems=problems,
    )
    parts = (run.rows, run.suite, run.curves, run.training, run.records, run.benches)
    if problems and not any(parts):
        raise InputError(f"{problems[0]} (and nothing else in {folder} can be shown)")
    return run


def known_files(folder: Path) -> list[Path]:
    """Raises InputError for a folder without any of KNOWN."""
    found = [path for pattern in KNOWN for path in sorted(folder.glob(pattern))]
    if not found:
        missing = "nothing to report in it" if folder.is_dir() else "no such folder"
        raise InputError(
            f"{folder}: {missing}; expected a folder of zipr1 eval, demo, train or bench, with one "
            f"of {', '.join(KNOWN)}"
        )
    return found


def attempt(problems: list[str], read: Callable[[Path], T], path: Path, default: T) -> T:
    """What `read` makes of a file; the default where there is none, or it cannot be read."""
    if not path.is_file():
        return default
    try:
        return read(path)
    except InputError as error:
        problems.append(str(error))
        return default


def records_of(files: list[Path], problems: list[str]) -> dict[str, list[Record]]:
    """Method -> its records, in the order of the demo's table or of the files."""
    records: dict[str, list[Record]] = {}
    named = {
        path.stem.removeprefix("records").removeprefix("-"): path
        for path in files
        if path.name.startswith("records")
    }
    for name in sorted(named, key=lambda name: [*DEMO, name].index(name)):
        found, faults = attempt(problems, readable_records, named[name], ([], []))
        problems += faults
        for record in found:
            records.setdefault(DEMO.get(name, name) or record.method, []).append(record)
    return records


def by_training(metrics: list[Path], name: str, problems: list[str]) -> dict[str, list[dict]]:
    """The name of each training -> the rows with a step in one of its files."""
    found = {}
    for path in metrics:
        file = path.with_name(name)
        rows, faults = attempt(problems, read_lines, file, ([], []))
        whole = [row for row in rows if isinstance(row.get("step"), int)]
        problems += faults
        if len(whole) < len(rows):
            problems.append(f"{file}: {len(rows) - len(whole)} rows without a step")
        if whole:
            found[path.resolve().parent.name] = whole
    return found
