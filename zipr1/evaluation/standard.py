"""`zipr1 eval MODEL` without a suite: embedded tasks, or rows of a data set, under each method, and
a curve over p."""

import sys
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from zipr1.common.documents import read_json, write_document
from zipr1.common.errors import RunError
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
from zipr1.evaluation.questions import Examples, check_applicable
from zipr1.evaluation.records import Record, write_records
from zipr1.evaluation.row_questions import LEFT_OUT, RowQuestions
from zipr1.evaluation.rows import TableRow
from zipr1.evaluation.statistics import notes, table_row
from zipr1.evaluation.tables import Table, markdown, write_table
from zipr1.models.loading import load_vision
from zipr1.models.settings import TrainedSettings
from zipr1.rewards.functions import load_function
from zipr1.sparsity.own_rules import CheckedRule, code_of
from zipr1.sparsity.rules import Rule, TopP
from zipr1.tasks import examples_of

RECORDS = "records.jsonl"
CURVE = ("curve.json", "curve.png")
ROW_TOKENS = 128  # of an answer to a row, unless set


def run_standard(config: EvalConfig) -> tuple[list[TableRow], str]:
    """Writes records.jsonl, table.md and table.json and, with a curve, curve.json and curve.png;
    returns the rows and the table.

    Answers go to answers/ batch by batch, where a run with the same settings continues. Where a
    method fails, the files are of those before it.
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
        model, processor = load_for_rows(config, length)
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
    check_applicable(rules, questions, processor, settings)
    discard_stale_files(folder, config, selection, questions, settings)
    count = questions.total if isinstance(questions, RowQuestions) else config.questions

    def answers(method: str, rule: Rule | Shortener | None) -> list[Record]:
        name, number = stored_as(method, rule, selection.p, config.ratio)
        path = answers_file(folder, name, number, count)
        found = evaluate_to_file(path, model, processor, questions, rule, method, settings)
        if not found:
            path.unlink()
            raise RunError(
                f"{config.data}: none of the rows can be used for {method}; the first: "
                f"{next(iter(questions.reasons.values()))}"
            )
        return found

    records: dict[str, list[Record]] = {}
    points: list[list[Record]] = []
    try:
        for method, rule in rules.items():
            records[method] = answers(method, rule)
        for p in config.thresholds:
            points.append(answers("zipvl", TopP(p, selection.choice)))
    finally:  # where a method fails, the results of those before it are written
        if records:
            result = write_results(folder, config, records, points, questions)
            report(folder, records, questions, settings)
    return result


def stored_as(
    method: str, rule: Rule | Shortener | None, p: float, ratio: float
) -> tuple[str, float]:
    """Name and number of the file of a method's answers. Those of an own rule may depend on p, on
    the ratio and on all of its source code."""
    if isinstance(rule, CheckedRule):
        return f"{method.rpartition('/')[2]} {code_of(rule.name)} p {p} ratio", ratio
    return method, getattr(rule, "p", getattr(rule, "ratio", 1))


def write_results(
    folder: Path,
    config: EvalConfig,
    records: dict[str, list[Record]],
    points: list[list[Record]],
    questions: Examples | RowQuestions,
) -> tuple[list[TableRow], str]:
    """The files of `run_standard`, of the records of each method and of each point of the curve."""
    write_records([record for rows in records.values() for record in rows], folder / RECORDS)
    pool = bool(config.data)
    rows = [
        table_row(method, found, None if method == "full" else records.get("full"), pool=pool)
        for method, found in records.items()
    ]
    curve = [table_row("zipvl", found, pool=pool) for found in points]
    left_out = questions.left_out()
    tasks = {one.id: one.task for one in questions.items if one.id not in left_out}
    table = markdown(rows) + "".join(f"\n{note}\n" for note in notes(records, tasks, pool))
    if curve:
        table += f"\nThe curve (zipvl):\n\n{markdown(curve)}"
    (folder / "table.md").write_text(table)
    origin = provenance()
    write_table(
        Table(rows, asdict(config), left_out=len(left_out), origin=origin), folder / "table.json"
    )
    if curve:
        full = [row for row in rows if row.method == "full"]
        lines = {config.model: curve} | ({"Full": full} if full else {})
        write_curves({"mean": lines}, folder / "curve.json")
        plot_curves(lines, folder / "curve.png")
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


def discard_stale_files(
    folder: Path,
    config: EvalConfig,
    selection: TrainedSettings,
    questions: Examples | RowQuestions,
    settings: GenerationSettings,
) -> None:
    """Writes what the answers depend on to evaluation.json; deletes the answers and the curve
    of another model, version or setting, with a message on stderr."""
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
    other = differing(path, identity)
    if isinstance(questions, RowQuestions):
        # Of each number of rows, so that a shorter trial and the whole evaluation both stay.
        media = read_json(path).get("media files", {}) if path.is_file() and not other else {}
        rows, state = str(questions.total), questions.media
        if media.get(rows, state) != state:
            other.append("media files")
        if questions.recovered:
            other.append("set of usable rows")
        identity["media files"] = ({} if other else media) | {rows: state}
    if other:
        print(
            f"{folder}: replaces answers of an earlier evaluation, which differs in "
            f"{', '.join(other)}",
            file=sys.stderr,
        )
        # The old table stays until a new one is written over it; a new curve may never be.
        for pattern in ("answers/* x *.jsonl*", LEFT_OUT, *CURVE):
            for file in folder.glob(pattern):
                file.unlink()
    write_document(path, "evaluation", identity)
