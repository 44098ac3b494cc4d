"""`zipr1 eval MODEL` without a suite: embedded tasks under each method, and a curve over p."""

import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from zipr1.common.documents import write_document
from zipr1.common.provenance import provenance
from zipr1.evaluation.config import EvalConfig
from zipr1.evaluation.curves import plot_curves, write_curves
from zipr1.evaluation.evaluate import answers_file, evaluate_to_file
from zipr1.evaluation.fingerprint import code, differing, weights
from zipr1.evaluation.generation import GenerationSettings
from zipr1.evaluation.input_baselines import Shortener
from zipr1.evaluation.methods import SHORTENERS, rule_of, selection_of
from zipr1.evaluation.records import Record, write_records
from zipr1.evaluation.rows import TableRow
from zipr1.evaluation.statistics import table_row
from zipr1.evaluation.tables import Table, markdown, write_table
from zipr1.models.loading import load_vision
from zipr1.models.settings import TrainedSettings
from zipr1.sparsity.rules import Rule, TopP
from zipr1.tasks import examples_of

RECORDS = "records.jsonl"


def run_standard(config: EvalConfig) -> tuple[list[TableRow], str]:
    """Writes records.jsonl, table.md and table.json and, with a curve, curve.json and curve.png;
    returns the rows and the table.

    Answers go to answers/ batch by batch, where a run with the same settings continues.
    """
    torch.set_num_threads(config.threads)
    folder = Path(config.output_dir)
    methods = config.methods.split(",")
    selection = selection_of(config.model, config.p, config.scope)
    rules = {
        method: rule_of(method, selection.p, config.ratio, SHORTENERS, selection.choice)
        for method in methods
    }
    examples = examples_of(config.names, config.split, config.questions)
    model, processor = load_vision(config.model)
    settings = GenerationSettings(batch_size=config.batch_size, scope=selection.scope)
    start(folder, config, selection)

    def answers(method: str, rule: Rule | Shortener | None) -> list[Record]:
        number = getattr(rule, "p", getattr(rule, "ratio", 1))
        path = answers_file(folder, method, number, config.questions)
        return evaluate_to_file(path, model, processor, examples, rule, method, settings)

    records = {method: answers(method, rule) for method, rule in rules.items()}
    write_records([record for rows in records.values() for record in rows], folder / RECORDS)
    rows = [
        table_row(method, found, None if method == "full" else records.get("full"))
        for method, found in records.items()
    ]
    table = markdown(rows)
    (folder / "table.md").write_text(table)
    write_table(Table(rows, asdict(config), origin=provenance()), folder / "table.json")
    if config.thresholds:
        points = [answers("zipvl", TopP(p, selection.choice)) for p in config.thresholds]
        curve = [table_row("zipvl", records) for records in points]
        full = [row for row in rows if row.method == "full"]
        lines = {config.model: curve} | ({"Full": full} if full else {})
        write_curves({"mean": lines}, folder / "curve.json")
        plot_curves(lines, folder / "curve.png")
    print(f"records, table and answers are in {folder}/", file=sys.stderr)
    return rows, table


def start(folder: Path, config: EvalConfig, selection: TrainedSettings) -> None:
    """Keeps what answers in the folder depend on in evaluation.json; answers of another model,
    version or setting make way, which is said on stderr."""
    path = folder / "evaluation.json"
    identity = {
        "model": config.model,
        "tasks": config.names,
        "split": config.split,
        "scope": selection.scope,
        "choice": selection.choice,
        "batch_size": config.batch_size,
        "versions": {name: version(name) for name in ("zipr1", "torch", "transformers")},
        "code": code(),
        "weights": weights(config.model),
    }
    if other := differing(path, identity):
        print(f"{folder}: replaces answers of another {', '.join(other)}", file=sys.stderr)
        for file in (folder / "answers").glob("* x *.jsonl*"):
            file.unlink()
    write_document(path, "evaluation", identity)
