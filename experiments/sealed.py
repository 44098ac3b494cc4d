"""Final numbers: questions of the split "sealed", each row of a table asked once.

    python experiments/sealed.py ROW --model runs/exact/final --methods full,zipvl
    python experiments/sealed.py untrained --methods full,zipvl,topk,fastv,recent,random --ratio 0.24

ROW names the row of the table, as "tiny_zipr1 layer seed 2". The answers are appended to
experiments/sealed.jsonl: per method one line with what was asked, when, by which commit and of
which weights, the accuracy, the token ratio, and for every question whether it was answered
correctly ("1") or not ("0"), so that any two rows can be paired. A row and method that is there
already is refused: what is asked twice could be chosen by.
"""

import argparse
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import torch

from zipr1.common.documents import read_lines
from zipr1.common.provenance import provenance
from zipr1.evaluation.evaluate import evaluate
from zipr1.evaluation.generation import GenerationSettings
from zipr1.evaluation.methods import SHORTENERS, rule_of, selection_of
from zipr1.evaluation.records import Record
from zipr1.evaluation.statistics import by_task, table_row
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("row")
    parser.add_argument("--model", default="zipr1/tiny")
    parser.add_argument("--methods", default="full,zipvl")
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--questions", type=int, default=200, help="of each task")
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    given = parser.parse_args()
    methods, tasks = given.methods.split(","), given.tasks.split(",")
    asked = read_lines(given.ledger)[0] if given.ledger.exists() else []
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
