"""`zipr1 eval MODEL` without a suite: embedded tasks, or rows of a data set, under each method, and
a curve over p."""

import sys
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from zipr1.common.documents import write_document
from zipr1.common.progress import announced
from zipr1.common.provenance import provenance
from zipr1.evaluation.config import MAX_NEW_TOKENS, EvalConfig
from zipr1.evaluation.curves import plot_curves, write_curves
from zipr1.evaluation.evaluate import answers_file, evaluate_to_file
from zipr1.evaluation.fingerprint import code, differing, weights
from zipr1.evaluation.generation import GenerationSettings
from zipr1.evaluation.input_baselines import Shortener
from zipr1.evaluation.methods import SHORTENERS, rule_of, selection_of
from zipr1.evaluation.own_data import load_for_rows, row_identity, row_questions
from zipr1.evaluation.questions import Examples
from zipr1.evaluation.records import Record, write_records
from zipr1.evaluation.row_questions import RowQuestions
from zipr1.evaluation.rows import TableRow
from zipr1.evaluation.statistics import table_row
from zipr1.evaluation.tables import Table, markdown, write_table
from zipr1.models.loading import load_vision
from zipr1.models.settings import TrainedSettings
from zipr1.rewards.functions import load_function
from zipr1.sparsity.own_rules import source_of
from zipr1.sparsity.rules import Rule, TopP
from zipr1.tasks import examples_of

RECORDS = "records.jsonl"
ROW_TOKENS = 128  # of an answer to a row, unless set


def run_standard(config: EvalConfig) -> tuple[list[TableRow], str]:
    """Writes records.jsonl, table.md and table.json and, with a curve, curve.json and curve.png;
    returns the rows and the table.

    Answers go to answers/ batch by batch, where a run with the same settings continues.
    """
    with ExitStack() as stack:
        return measure(config, stack)


def measure(config: EvalConfig, stack: ExitStack) -> tuple[list[TableRow], str]:
    """As `run_standard`; an engine that has to be ended is entered into `stack`."""
    torch.set_num_threads(config.threads)
    folder = Path(config.output_dir)
    selection = selection_of(config.model, config.p, config.scope)
    rules = {
        method: rule_of(method, selection.p, config.ratio, SHORTENERS, selection.choice)
        for method in config.methods.split(",")
    }
    load_function(config.reward_function)  # a misspelt name is found before the model is loaded
    length = (config.max_new_tokens or ROW_TOKENS) if config.data else MAX_NEW_TOKENS
    if config.data:
        model, processor = load_for_rows(config)
        questions = row_questions(config, model, processor, folder, length)
    else:
        questions = Examples(examples_of(config.names, config.split, config.questions))
        model, processor = load_engine(config, selection, stack)
    settings = GenerationSettings(
        batch_size=config.batch_size,
        max_new_tokens=length,
        scope=selection.scope,
        raw=not config.chat_template,
    )
    discard_stale_answers(folder, config, selection, rules, questions, settings)

    def answers(method: str, rule: Rule | Shortener | None) -> list[Record]:
        number = getattr(rule, "p", getattr(rule, "ratio", 1))
        path = answers_file(folder, method, number, config.questions or len(questions.items))
        return evaluate_to_file(path, model, processor, questions, rule, method, settings)

    records = {method: answers(method, rule) for method, rule in rules.items()}
    points = [answers("zipvl", TopP(p, selection.choice)) for p in config.thresholds]
    write_records([record for rows in records.values() for record in rows], folder / RECORDS)
    pool = bool(config.data)
    rows = [
        table_row(method, found, None if method == "full" else records.get("full"), pool=pool)
        for method, found in records.items()
    ]
    curve = [table_row("zipvl", found, pool=pool) for found in points]
    table = markdown(rows)
    if curve:
        table += f"\nThe curve (zipvl):\n\n{markdown(curve)}"
    (folder / "table.md").write_text(table)
    left_out = len(questions.left_out())
    write_table(
        Table(rows, asdict(config), left_out=left_out, origin=provenance()), folder / "table.json"
    )
    if curve:
        full = [row for row in rows if row.method == "full"]
        lines = {config.model: curve} | ({"Full": full} if full else {})
        write_curves({"mean": lines}, folder / "curve.json")
        plot_curves(lines, folder / "curve.png")
    report(folder, records, questions, settings)
    return rows, table


def load_engine(config: EvalConfig, selection: TrainedSettings, stack: ExitStack) -> tuple:
    """(model, or an engine instead of it, processor)."""
    if config.engine == "transformers":
        with announced(f"loading {config.model}"):
            return load_vision(config.model)
    from zipr1.evaluation.vllm_engine import vllm_engine

    return stack.enter_context(vllm_engine(config.model, selection.scope))


def report(
    folder: Path,
    records: dict[str, list[Record]],
    questions: Examples | RowQuestions,
    settings: GenerationSettings,
) -> None:
    """On stderr: rows that were left out, answers that were cut, and where the files are."""
    if isinstance(questions, RowQuestions):
        questions.report()
        for method, found in records.items():
            if clipped := sum(record.clipped for record in found):
                print(
                    f"zipr1: {clipped} of {len(found)} answers of {method} had not ended after "
                    f"max_new_tokens={settings.max_new_tokens}; raise it",
                    file=sys.stderr,
                )
    print(f"records, tables and answers are in {folder}/", file=sys.stderr)


def discard_stale_answers(
    folder: Path,
    config: EvalConfig,
    selection: TrainedSettings,
    rules: dict[str, Rule | Shortener | None],
    questions: Examples | RowQuestions,
    settings: GenerationSettings,
) -> None:
    """Writes what the answers depend on to evaluation.json; deletes stored answers of another model,
    version or setting, with a message on stderr."""
    path = folder / "evaluation.json"
    asked = {"tasks": config.names, "split": config.split}
    if isinstance(questions, RowQuestions):
        asked = row_identity(config, questions, settings)
    identity = {
        "model": config.model,
        **asked,
        "scope": selection.scope,
        "choice": selection.choice,
        "engine": config.engine,
        "batch_size": config.batch_size,
        "versions": {name: version(name) for name in ("zipr1", "torch", "transformers")},
        "code": code(),
        "weights": weights(config.model),
    }
    if own := {name: source_of(rule) for name, rule in rules.items() if ":" in name}:
        identity["rules"] = own
    other = differing(path, identity)
    if getattr(questions, "recovered", None):
        other.append("set of usable rows")
    if other:
        print(
            f"{folder}: replaces answers of an earlier evaluation, which differs in "
            f"{', '.join(other)}",
            file=sys.stderr,
        )
        for file in (folder / "answers").glob("* x *.jsonl*"):
            file.unlink()
    write_document(path, "evaluation", identity)
