"""`zipr1 eval MODEL --suite tiny13`: the embedded tasks under Full, ZipVL, trained models, and
baselines with the same token ratio.

Two rounds: first the methods that choose their own token ratio, then the baselines at the ratios
that were measured for the last of those.
"""

import sys
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import torch

from zipr1.common.documents import write_document
from zipr1.common.errors import InputError
from zipr1.common.progress import progress
from zipr1.common.provenance import provenance
from zipr1.common.workers import process_pool, run_jobs
from zipr1.data.example import Example
from zipr1.evaluation.config import EvalConfig, trained_models
from zipr1.evaluation.evaluate import answers_file, evaluate_to_file
from zipr1.evaluation.fingerprint import code, differing, weights
from zipr1.evaluation.generation import GenerationSettings, as_shortener
from zipr1.evaluation.input_baselines import Downsample, FewerFrames, Shortener
from zipr1.evaluation.methods import selection_of
from zipr1.evaluation.questions import Examples
from zipr1.evaluation.records import Record, first, read_records, write_records
from zipr1.evaluation.rows import CostRow, TableRow
from zipr1.evaluation.statistics import mean_of, pairs_of, table_row, unlearned
from zipr1.evaluation.tables import Table
from zipr1.lab.cost import PrefillClock, counted_cost
from zipr1.lab.tiny13_tables import write_suite_curves, write_suite_table
from zipr1.models.families import decoder, sparse_layers
from zipr1.models.flops import Shape
from zipr1.models.loading import load_vision
from zipr1.sparsity.rules import FastV, Random, Recent, Rule, TopK, TopP
from zipr1.tasks import ALL_TASKS, examples_of, text_only_prior

loaded = cache(load_vision)  # once in each process
THRESHOLDS = [0.7, 0.85, 0.95]  # of the curves, besides --p


@dataclass(frozen=True)
class Point:
    """A model under a rule: a row of the table, or a point of the curve of the same name.

    main: of the table, over all questions; questions: number per task; ratio: token ratio that a
    baseline was given.
    """

    row: str
    model: str
    rule: Rule | Shortener | None
    scope: str
    main: bool
    questions: int
    ratio: float | None = None

    def file(self, folder: Path) -> Path:
        """Its records."""
        number = self.ratio or getattr(self.rule, "p", 1)
        return answers_file(folder, self.row, number, self.questions)


Measured = dict[Point, list[Record]]


def run_tiny13(config: EvalConfig) -> tuple[list[TableRow], str]:
    """Writes records.jsonl, table.md, table.json, table.tex, curve.json and curves/*.png; returns
    the rows and the table.

    Raises InputError where the folder holds the answers of other settings.
    """
    import_module("matplotlib")  # of the extra "tasks": missing now, not after ten minutes
    folder = Path(config.output_dir)
    model, _ = loaded(config.model)
    for other in trained_models(config.trained).values():
        loaded(other)  # a missing model is named before anything is measured
    check_folder(config)
    measured, priors = measure(config, len(sparse_layers(model.config, config.model)))
    torch.set_num_threads(1)
    table = {point: records for point, records in measured.items() if point.main}
    write_records([one for records in table.values() for one in records], folder / "records.jsonl")
    rows = cost_rows(config, table, priors)
    few: dict[str, list[list[Record]]] = {}
    for point, records in measured.items():
        few.setdefault(point.row, []).append(first(records, config.curve_questions))
    write_suite_curves(few, folder)
    summary = Table(rows, asdict(config), priors, unlearned(rows[0], priors), provenance())
    text = write_suite_table(summary, folder)
    print(f"records, tables, curves and answers are in {folder}/", file=sys.stderr)
    return rows, text


def check_folder(config: EvalConfig) -> None:
    """Keeps in suite.json what the answers in the folder depend on.

    Raises InputError where it holds those of other settings, of a model that was trained anew
    since, or of another version of the code.
    """
    path = Path(config.output_dir) / "suite.json"
    names = ("model", "trained", "split", "questions", "scope", "batch_size")
    identity = {name: getattr(config, name) for name in names}
    identity |= {
        "tasks": config.names,
        "versions": {name: version(name) for name in ("zipr1", "torch", "transformers")},
        "code": code(),
        "weights": {
            model: weights(model)
            for model in (config.model, *trained_models(config.trained).values())
        },
    }
    if other := differing(path, identity):
        raise InputError(
            f"{path.parent}: holds results of another {', '.join(other)}; give another "
            "--output_dir, or remove it"
        )
    write_document(path, "suite", identity)


def measure(config: EvalConfig, layers: int) -> tuple[Measured, dict[str, float]]:
    """The records of every point, those of the table before those of the curves and Full first; and
    the text-only prior of every task."""
    models = {"ZipVL": config.model} | trained_models(config.trained)
    last = [*models][-1]
    selection = {row: selection_of(model, config.p, config.scope) for row, model in models.items()}
    few = min(config.curve_questions, config.questions)

    def point(
        row: str, rule: Rule | Shortener | None, main: bool, ratio: float | None = None
    ) -> Point:
        model, scope = models.get(row, config.model), selection.get(row, selection["ZipVL"]).scope
        return Point(row, model, rule, scope, main, config.questions if main else few, ratio)

    with process_pool(config.threads) as pool:

        def measured(title: str, points: list[Point]) -> Measured:
            # Stable, the long jobs first. Two points may be one job: thresholds at which the models
            # have the same ratio.
            points = sorted(dict.fromkeys(points), key=lambda point: not point.main)
            folder = Path(config.output_dir)
            jobs = {point.file(folder): partial(answers, point, config) for point in points}
            found = dict(zip(jobs, run_jobs(pool, title, list(jobs.values())), strict=True))
            return {point: found[point.file(folder)] for point in points}

        own_ratio = [point("Full", None, True)]
        own_ratio += [
            point(row, TopP(p, own.choice), p == own.p)
            for row, own in selection.items()
            for p in sorted({*(config.thresholds or THRESHOLDS), own.p})
        ]
        found = measured("1/3 models", own_ratio)
        ratios = {one.rule.p: ratio_of(rows) for one, rows in found.items() if one.row == last}
        has_videos = any(ALL_TASKS[name].video for name in config.names)
        given_ratio = [
            point(row, rule, p == selection[last].p, ratio)
            for p, ratio in ratios.items()
            for row, rule in baselines(ratio, layers, has_videos).items()
        ]
        found |= measured("2/3 baselines", given_ratio)
        priors = run_jobs(
            pool, "3/3 text-only priors", [partial(prior, name, config) for name in config.names]
        )
    return found, dict(zip(config.names, priors, strict=True))


def baselines(ratio: float, layers: int, has_videos: bool) -> dict[str, Rule | Shortener]:
    """Row -> rule, all with one token ratio."""
    rules = {
        "TopK": TopK(ratio),
        "FastV": FastV.at(ratio, layers),
        "Recent": Recent(ratio),
        "Random": Random(ratio),
        "Downsample": Downsample(ratio),
    }
    return rules | ({"Fewer frames": FewerFrames(ratio)} if has_videos else {})


def ratio_of(records: list[Record]) -> float:
    """Mean token ratio over tasks, to three digits: what a baseline is given."""
    return round(table_row("", records).token_ratio, 3)


def answers(point: Point, config: EvalConfig) -> list[Record]:
    """The records of a point, from their file where an earlier run has left it."""
    path = point.file(Path(config.output_dir))
    if path.is_file():
        return read_records(path)
    torch.set_num_threads(1)
    examples = first(
        questions(tuple(config.names), config.split, config.questions), point.questions
    )
    settings = GenerationSettings(batch_size=config.batch_size, scope=point.scope, quiet=True)
    asked = Examples(examples)
    return evaluate_to_file(path, *loaded(point.model), asked, point.rule, point.row, settings)


@cache
def questions(names: tuple[str, ...], split: str, count: int) -> list[Example]:
    """Drawn once in each process."""
    return examples_of(names, split, count)


def prior(name: str, config: EvalConfig) -> float:
    """The accuracy on a task that needs no image."""
    return text_only_prior(ALL_TASKS[name], config.questions, config.split)


def cost_rows(config: EvalConfig, table: Measured, priors: dict[str, float]) -> list[CostRow]:
    """The rows of the table, with measured times; nothing else runs meanwhile."""
    model, processor = loaded(config.model)
    full = next(iter(table.values()))
    learned = set(config.names) - set(unlearned(table_row("", full), priors))
    examples = questions(tuple(config.names), config.split, config.questions)
    clock = PrefillClock(model, processor, examples, config.batch_size)
    shape = Shape.of(decoder(model).config)
    rows = []
    for point, records in progress(table.items(), desc="prefill times", unit="row"):
        row = table_row(point.row, records, full if point.rule else None)
        scope = "input" if as_shortener(point.rule) else point.scope
        cost = counted_cost(records, shape, scope, model.dtype.itemsize)
        if point.rule is None:
            cost |= dict.fromkeys(("time", "time_low", "time_high"), 1.0)
        else:
            cost |= clock.compare(loaded(point.model)[0], point.rule, point.scope)
        rows.append(
            CostRow(
                **asdict(row),
                ratio=point.ratio,
                learned=mean_of(records, learned),
                pairs=pairs_of(records),
                **cost,
            )
        )
    return rows
