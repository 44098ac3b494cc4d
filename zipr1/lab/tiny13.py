"""`zipr1 eval MODEL --suite tiny13`: the embedded tasks under Full, ZipVL, trained models, and baselines that keep as much.

Two rounds: first what decides by itself how much to keep, then the baselines at the ratios that the last of those measured.
"""

import json
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import torch

from zipr1.common.progress import progress
from zipr1.common.provenance import provenance
from zipr1.common.workers import process_pool, run_jobs
from zipr1.data.example import Example
from zipr1.evaluation.config import EvalConfig, trained_models
from zipr1.evaluation.evaluate import evaluate
from zipr1.evaluation.fingerprint import code, weights
from zipr1.evaluation.input_baselines import Downsample, FewerFrames, Shorter
from zipr1.evaluation.records import Record, first, read_records, write_records
from zipr1.evaluation.statistics import table_row
from zipr1.lab.cost import PrefillClock, counted
from zipr1.lab.tiny13_tables import mean_of, pairs_of, unlearned, write_curves, write_table
from zipr1.models.families import decoder
from zipr1.models.flops import Shape
from zipr1.models.loading import load_vision
from zipr1.models.settings import trained_settings
from zipr1.sparsity.rules import FastV, Random, Recent, Rule, TopK, TopP
from zipr1.tasks import ALL_TASKS, examples_of, text_only_prior

loaded = cache(load_vision)  # once in each process
THRESHOLDS = [0.7, 0.85, 0.95]  # of the curves, beside --p


@dataclass(frozen=True)
class Point:
    """A model under a rule: a row of the table, or a point of the curve of the same name."""

    row: str
    model: str
    rule: Rule | Shorter | None
    scope: str
    main: bool  # of the table, over all questions
    questions: int  # per task
    ratio: float | None = None  # that was asked for

    @property
    def file(self) -> str:
        """Its records, below the folder of the run."""
        number = self.ratio or getattr(self.rule, "p", 1)
        return f"answers/{self.row} {number:g} x {self.questions}.jsonl"


def baselines(ratio: float, layers: int, clips: bool) -> dict[str, Rule | Shorter]:
    """Row -> rule, all at one ratio; `clips`: whether there are any to take frames from."""
    rules = {
        "TopK": TopK(ratio), "FastV": FastV.at(ratio, layers), "Recent": Recent(ratio), "Random": Random(ratio),
        "Downsample": Downsample(ratio),
    }  # fmt: skip
    return rules | ({"Fewer frames": FewerFrames(ratio)} if clips else {})


@cache
def asked(names: tuple[str, ...], split: str, count: int) -> list[Example]:
    """Drawn once in each process."""
    return examples_of(names, split, count)


def answers(point: Point, config: EvalConfig) -> list[Record]:
    """The records of a point, from their file where an earlier run has left it."""
    path = Path(config.output_dir) / point.file
    if not path.is_file():
        torch.set_num_threads(1)
        examples = first(
            asked(tuple(config.names), config.split, config.questions), point.questions
        )
        how = {"scope": point.scope, "batch_size": config.batch_size, "quiet": True}
        write_records(evaluate(*loaded(point.model), examples, point.rule, point.row, **how), path)
    return read_records(path)


def prior(name: str, config: EvalConfig) -> float:
    """What a task's questions give away without their pictures."""
    return text_only_prior(ALL_TASKS[name], config.questions)


def check_folder(config: EvalConfig) -> None:
    """Raises ValueError where the folder holds the answers of other settings, of a model that was trained anew since, or of
    another version of the code that asks."""
    path = Path(config.output_dir) / "suite.json"
    mine = {
        name: getattr(config, name)
        for name in ("model", "trained", "split", "questions", "scope", "batch_size")
    }
    mine |= {
        "tasks": config.names,
        "versions": {name: version(name) for name in ("zipr1", "torch", "transformers")},
    }
    mine["code"] = code()
    mine["weights"] = {
        model: weights(model) for model in (config.model, *trained_models(config.trained).values())
    }
    found = json.loads(path.read_text()) if path.is_file() else mine
    if other := [name for name in mine if found.get(name) != mine[name]]:
        raise ValueError(
            f"{path.parent}: holds results of another {', '.join(other)}; give another --output_dir, or remove it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(mine, indent=1))


def measure(config: EvalConfig, layers: int) -> tuple[dict[Point, list[Record]], dict[str, float]]:
    """The records of every point, those of the table before those of the curves and Full first; and the prior of every task."""
    models = {"ZipVL": config.model} | trained_models(config.trained)
    trained = {row: trained_settings(model) for row, model in models.items()}
    own = {row: one.p if config.p is None else config.p for row, one in trained.items()}

    def thresholds(row: str) -> dict[float, TopP]:
        numbers = sorted({*(config.thresholds or THRESHOLDS), own[row]})
        return {p: TopP(p, trained[row].choice) for p in numbers}

    few = min(config.curve_questions, config.questions)

    def point(
        row: str, rule: Rule | Shorter | None, main: bool, ratio: float | None = None
    ) -> Point:
        model = models.get(row, config.model)
        return Point(
            row,
            model,
            rule,
            config.scope or trained_settings(model).scope,
            main,
            config.questions if main else few,
            ratio,
        )

    with process_pool(config.threads) as pool:

        def measured(title: str, points: list[Point]) -> dict[Point, list[Record]]:
            points = sorted(
                dict.fromkeys(points), key=lambda point: not point.main
            )  # stable; the long jobs first
            # Two points may be one job: thresholds at which the models kept the same share.
            jobs = {point.file: partial(answers, point, config) for point in points}
            found = dict(zip(jobs, run_jobs(pool, title, list(jobs.values())), strict=True))
            return {point: found[point.file] for point in points}

        ours = [point("Full", None, True)]
        ours += [
            point(row, rule, p == own[row]) for row in models for p, rule in thresholds(row).items()
        ]
        found = measured("1/3 models", ours)
        kept = {
            one.rule.p: ratio_of(records)
            for one, records in found.items()
            if one.row == [*models][-1]
        }
        clips = any(ALL_TASKS[name].video for name in config.names)
        others = [
            point(row, rule, p == own[[*models][-1]], ratio)
            for p, ratio in kept.items()
            for row, rule in baselines(ratio, layers, clips).items()
        ]
        found |= measured("2/3 baselines", others)
        priors = run_jobs(
            pool, "3/3 text-only priors", [partial(prior, name, config) for name in config.names]
        )
    return found, dict(zip(config.names, priors, strict=True))


def ratio_of(records: list[Record]) -> float:
    """Mean over tasks, to three digits: what a baseline is asked to keep."""
    return round(table_row("", records)["token_ratio"], 3)


def run_tiny13(config: EvalConfig) -> tuple[list[dict], str]:
    """Writes records.jsonl, table.md, table.json, table.tex, curve.json and curves/*.png; returns rows and table.

    Raises ValueError where the folder holds the answers of other settings.
    """
    import_module("matplotlib")  # of the extra "tasks": missing now, not after ten minutes
    folder = Path(config.output_dir)
    model, processor = loaded(config.model)
    for other in trained_models(config.trained).values():
        loaded(other)  # one that is not there is named before anything is measured
    check_folder(config)
    found, priors = measure(config, model.config.get_text_config().num_hidden_layers)
    torch.set_num_threads(1)
    table = [point for point in found if point.main]
    full = found[table[0]]
    learned = set(config.names) - set(unlearned([table_row("", full)], priors))
    clock = PrefillClock(
        model,
        processor,
        asked(tuple(config.names), config.split, config.questions),
        config.batch_size,
    )
    rows = []
    for point in progress(
        table, desc="prefill times", unit="row"
    ):  # alone, now that nothing else runs
        row = table_row(point.row, found[point], full if point.rule else None)
        row |= {
            "ratio": point.ratio,
            "learned": mean_of(found[point], learned),
            "pairs": pairs_of(found[point]),
        }
        scope = "input" if hasattr(point.rule, "shorten") else point.scope
        row |= counted(found[point], Shape.of(decoder(model).config), scope, model.dtype.itemsize)
        if point.rule is None:
            row |= dict.fromkeys(("time", "time_low", "time_high"), 1.0)
        else:
            row |= clock.compare(
                model if point.model == config.model else loaded(point.model)[0],
                point.rule,
                point.scope,
            )
        rows.append(row)
    write_records([record for point in table for record in found[point]], folder / "records.jsonl")
    few: dict[str, list[list[Record]]] = {}
    for point, records in found.items():
        few.setdefault(point.row, []).append(first(records, config.curve_questions))
    write_curves(few, folder)
    return rows, write_table(rows, priors, {"config": asdict(config)} | provenance(), folder)
