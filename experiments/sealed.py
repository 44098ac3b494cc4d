"""Final numbers: questions of the split "sealed", each row of a table asked once.

    python experiments/sealed.py ROW --model runs/exact/final --methods full,zipvl
    python experiments/sealed.py untrained --methods full,zipvl,topk,fastv,recent,random --ratio 0.24
    python experiments/sealed.py --table untrained

ROW names the row of the table, as "tiny_zipr1 layer seed 2". The answers are appended to
experiments/sealed.jsonl: per method one line with what was asked, when, by which commit and of
which weights, the accuracy, the token ratio, and for every question whether it was answered
correctly ("1") or not ("0"), so that any two rows can be paired. What is there already is refused,
by its row and method or by its weights and settings: what is asked twice could be chosen by.
--table asks nothing: it prints all rows with their differences to dense attention of the row that
it names, paired by question.
"""

import argparse
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from zipr1.common.documents import read_lines
from zipr1.common.provenance import git
from zipr1.evaluation.evaluate import evaluate
from zipr1.evaluation.generation import GenerationSettings
from zipr1.evaluation.methods import SHORTENERS, rule_of, selection_of
from zipr1.evaluation.records import Record
from zipr1.evaluation.statistics import by_task, interval, table_row
from zipr1.models.loading import load_vision
from zipr1.models.location import EMBEDDED
from zipr1.tasks import TASKS, examples_of

ROOT = Path(__file__).parents[1]
LEDGER = ROOT / "experiments" / "sealed.jsonl"


def weights_hash(model: str) -> str:
    """SHA-256 of the weights' files, by name and content. Raises SystemExit without any."""
    files = sorted(Path(EMBEDDED.get(model, model)).glob("*.safetensors"))
    if not files:
        raise SystemExit(f"--model {model}: not a folder with weights (*.safetensors)")
    found = hashlib.sha256()
    for path in files:
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def commit_without(ledger: Path) -> str:
    """The commit, "+changes" if files differ from it other than the ledger."""
    inside = ledger.resolve().is_relative_to(ROOT)
    exclude = [f":!{ledger.resolve().relative_to(ROOT)}"] if inside else []
    changes = git(ROOT, "status", "--porcelain", "--", ".", *exclude)
    return git(ROOT, "rev-parse", "HEAD") + ("+changes" if changes else "")


def read_ledger(path: Path) -> list[dict]:
    """Raises SystemExit for a line that cannot be read: it may be a question that was asked."""
    asked, faults = read_lines(path) if path.exists() else ([], [])
    if faults:
        raise SystemExit(f"{path}: {faults[0]}; repair this line before the split is asked again")
    return asked


def check_new(line: dict, asked: list[dict]) -> None:
    """Raises SystemExit where the row and method, or the weights and settings, were asked."""
    keys = ("row", "method"), ("weights", "method", "p", "ratio", "scope")
    for old in asked:
        if any(all(old[key] == line[key] for key in names) for names in keys):
            raise SystemExit(
                f"{line['row']!r}, method {line['method']}: was asked on {old['asked']} as "
                f"{old['row']!r}; the sealed split is asked once"
            )


def bits(records: list[Record]) -> dict[str, str]:
    """Task -> a character per question, in their order."""
    return {
        task: "".join(str(int(value)) for value in row) for task, row in by_task(records).items()
    }


def print_table(asked: list[dict], base: str) -> None:
    """A Markdown table of all rows; base: the row whose dense attention the others are compared
    with. Raises SystemExit where it was not asked."""
    dense = [line for line in asked if line["row"] == base and line["method"] == "full"]
    if not dense:
        raise SystemExit(f"--table {base}: no row of that name with the method full")

    def values(line: dict) -> dict[str, np.ndarray]:
        return {task: np.array([*row], float) for task, row in line["correct"].items()}

    full = values(dense[0])
    sizes = {task: len(row) for task, row in full.items()}
    print("| row | method | token ratio | accuracy (95 %) | difference (95 %) |")
    print("|---|---|---|---|---|")
    for line in asked:
        named = [line["row"], line["method"], f"{line['token_ratio']:.1%}"]
        percent = [f"{100 * line[name]:.1f}" for name in ("accuracy", "low", "high")]
        named.append("{} ({} to {})".format(*percent))
        if {task: len(row) for task, row in values(line).items()} == sizes:
            difference = interval({task: row - full[task] for task, row in values(line).items()})
            named.append("{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * x for x in difference)))
        print("| " + " | ".join(named) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("row", nargs="?")
    parser.add_argument("--table", metavar="ROW", help="print the table, ask nothing")
    parser.add_argument("--model", default="zipr1/tiny")
    parser.add_argument("--methods", default="full,zipvl")
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--questions", type=int, default=200, help="of each task")
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    given = parser.parse_args()
    asked = read_ledger(given.ledger)
    if given.table:
        print_table(asked, given.table)
        return
    if not given.row:
        parser.error("name the row of the table")
    if Path(given.model).is_absolute():
        parser.error(
            f"--model {given.model}: the ledger is for other machines too; give the path from the "
            "current folder"
        )

    torch.set_num_threads(1)
    weights, used = weights_hash(given.model), selection_of(given.model, None, None)
    commit, lines = commit_without(given.ledger), []
    for method in given.methods.split(","):
        rule = rule_of(method, used.p, given.ratio, SHORTENERS, used.choice)
        line = {
            "row": given.row,
            "method": method,
            "asked": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit,
            "model": given.model,
            "weights": weights,
            "p": getattr(rule, "p", None),
            "ratio": None if method in ("full", "zipvl") else given.ratio,
            "scope": used.scope,
        }
        check_new(line, asked + [one for one, _ in lines])
        lines.append((line, rule))

    loaded = load_vision(given.model)
    examples = examples_of(given.tasks.split(","), "sealed", given.questions)
    for line, rule in lines:
        settings = GenerationSettings(scope=used.scope)
        records = evaluate(*loaded, examples, rule, line["method"], settings)
        row = table_row(line["method"], records)
        line |= {
            "questions": row.questions,
            "token_ratio": round(row.token_ratio, 4),
            "accuracy": round(row.accuracy, 4),
            "low": round(row.accuracy_low, 4),
            "high": round(row.accuracy_high, 4),
            "correct": bits(records),
        }
        with given.ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(
            f"{given.row}, {line['method']}: {row.accuracy:.1%} at {row.token_ratio:.1%} of the "
            "tokens"
        )


if __name__ == "__main__":
    main()
