"""Final numbers: questions of the split "sealed", each row of a table asked once.

    python experiments/sealed.py ROW --model runs/exact/final --methods full,zipvl
    python experiments/sealed.py untrained --methods full,zipvl,topk,fastv,recent,random --ratio 0.24
    python experiments/sealed.py --table untrained

ROW names the row of the table, as "tiny_zipr1 layer seed 2". The answers are appended to
experiments/sealed.jsonl: per method one line with what was asked, when, by which commit and of
which weights, the accuracy, the token ratio, and for every question whether it was answered
correctly ("1") or not ("0"), so that any two rows can be paired. A row and method that is there
already is refused: what is asked twice could be chosen by. --table asks nothing: it prints all rows
with their differences to dense attention of the row that it names, paired by question.
"""

import argparse
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from zipr1.common.documents import read_lines
from zipr1.common.provenance import provenance
from zipr1.evaluation.evaluate import evaluate
from zipr1.evaluation.generation import GenerationSettings
from zipr1.evaluation.methods import SHORTENERS, rule_of, selection_of
from zipr1.evaluation.records import Record
from zipr1.evaluation.statistics import by_task, interval, table_row
from zipr1.models.loading import load_vision
from zipr1.models.location import EMBEDDED
from zipr1.tasks import TASKS, examples_of

LEDGER = Path(__file__).with_name("sealed.jsonl")


def weights_hash(model: str) -> str:
    """SHA-256 of the weights' files, by name and content."""
    found = hashlib.sha256()
    for path in sorted(Path(EMBEDDED.get(model, model)).glob("*.safetensors")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


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
    print("| row | method | token ratio | accuracy (95 %) | difference (95 %) |")
    print("|---|---|---|---|---|")
    for line in asked:
        named = [line["row"], line["method"], f"{line['token_ratio']:.1%}"]
        percent = [f"{100 * line[name]:.1f}" for name in ("accuracy", "low", "high")]
        named.append("{} ({} to {})".format(*percent))
        if values(line).keys() == full.keys():
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
    methods, tasks = given.methods.split(","), given.tasks.split(",")
    asked = read_lines(given.ledger)[0] if given.ledger.exists() else []
    if given.table:
        print_table(asked, given.table)
        return
    if not given.row:
        parser.error("name the row of the table")
    for line in asked:
        if line["row"] == given.row and line["method"] in methods:
            raise SystemExit(
                f"{given.ledger}: {given.row!r}, method {line['method']}, was asked on "
                f"{line['asked']}: {line['accuracy']:.1%} at {line['token_ratio']:.1%} of the "
                "tokens; the sealed split is asked once per row"
            )

    torch.set_num_threads(1)
    used = selection_of(given.model, None, None)
    loaded, examples = load_vision(given.model), examples_of(tasks, "sealed", given.questions)
    for method in methods:
        rule = rule_of(method, used.p, given.ratio, SHORTENERS, used.choice)
        settings = GenerationSettings(scope=used.scope)
        records = evaluate(*loaded, examples, rule, method, settings)
        row = table_row(method, records)
        line = {
            "row": given.row,
            "method": method,
            "asked": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": provenance()["commit"],
            "model": given.model,
            "weights": weights_hash(given.model),
            "p": row.p,
            "ratio": None if method in ("full", "zipvl") else given.ratio,
            "scope": used.scope,
            "questions": row.questions,
            "token_ratio": round(row.token_ratio, 4),
            "accuracy": round(row.accuracy, 4),
            "low": round(row.accuracy_low, 4),
            "high": round(row.accuracy_high, 4),
            "correct": bits(records),
        }
        with given.ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{given.row}, {method}: {row.accuracy:.1%} at {row.token_ratio:.1%} of the tokens")


if __name__ == "__main__":
    main()
