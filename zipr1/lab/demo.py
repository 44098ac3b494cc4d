"""`zipr1 demo`: measure, post-train with both presets, measure again, and draw."""

import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from zipr1.common.documents import read_json, read_lines, write_document
from zipr1.common.errors import InputError
from zipr1.common.provenance import provenance
from zipr1.common.recipe import read_recipe
from zipr1.common.workers import process_pool, run_jobs
from zipr1.data.example import VIDEO_FPS
from zipr1.evaluation.curves import plot_curves, write_curves
from zipr1.evaluation.evaluate import evaluate
from zipr1.evaluation.generation import GenerationSettings
from zipr1.evaluation.methods import SHORTENERS, rule_of
from zipr1.evaluation.records import Record, first, write_records
from zipr1.evaluation.rows import TableRow
from zipr1.evaluation.statistics import table_row
from zipr1.evaluation.tables import Table, markdown, write_table
from zipr1.inference.answer import AnswerConfig, answer
from zipr1.lab.config import DemoConfig
from zipr1.models.loading import load_vision
from zipr1.sparsity.rules import TopP
from zipr1.tasks import examples_of
from zipr1.training.config import TrainConfig
from zipr1.training.curves import plot_training
from zipr1.training.train import train

PRESETS = ("paper", "exact")
# The untrained model at the token ratio that ZipR1 (exact) has measured: of all tokens for topk, of
# the visual ones for downsample, whose text stays whole.
BASELINES = {"topk": "TopK", "downsample": "Downsampled"}


@dataclass(frozen=True)
class Measurements:
    """Records of the table, by method, and points of the curves, by line."""

    records: dict[str, list[Record]]
    curves: dict[str, list[TableRow]]


def demo(config: DemoConfig) -> tuple[list[TableRow], str]:
    """Writes everything to `output_dir`; returns the rows of the table, and the table with a
    summary as text.

    Raises InputError where the folder holds something else than an earlier demo.
    """
    began = time.time()
    folder = Path(config.output_dir)
    clear(folder)
    recipe = read_recipe(TrainConfig, config.recipe)
    if config.max_steps is not None:
        recipe = replace(recipe, max_steps=config.max_steps)
    presets = preset_configs(recipe, folder)
    settings = {
        "demo": asdict(config),
        "train": {preset: asdict(one) for preset, one in presets.items()},
    }
    write_document(folder / "config.json", "demo", settings | provenance())
    measured = measure_and_train(config, recipe, presets)
    rows = table_rows(measured.records)
    for name, records in measured.records.items():
        write_records(records, folder / f"records-{name}.jsonl")
    table = markdown(rows)
    (folder / "table.md").write_text(table)
    write_table(Table(rows, origin=provenance()), folder / "table.json")
    write_curves({"mean": measured.curves}, folder / "curve.json")
    plot_curves(measured.curves, folder / "curve.png")
    metrics = {preset: read_lines(folder / preset / "metrics.jsonl")[0] for preset in presets}
    plot_training(metrics, folder / "training.png")
    draw_kept_tokens(str(folder / "exact" / "final"), recipe, folder)
    print(f"tables, figures, records and both trainings are in {folder}/", file=sys.stderr)
    return rows, f"{table}\n{summary(rows, recipe.p, time.time() - began, folder)}"


def clear(folder: Path) -> None:
    """Removes the trainings of an earlier demo, which config.json tells.

    Raises InputError for a folder in which another command, or somebody else, has left them.
    """
    present = [folder / preset for preset in PRESETS if (folder / preset).exists()]
    config = folder / "config.json"
    if present and not is_demo(config):
        names = " and ".join(map(str, present))
        raise InputError(
            f"{names}: not of an earlier `zipr1 demo`, which would be replaced; give another "
            "--output_dir, or move them away"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in present:
        shutil.rmtree(path)


def is_demo(config: Path) -> bool:
    """Whether a config.json is that of a demo: its kind says so, or, without one, its keys."""
    value = read_json(config) if config.is_file() else None
    if not isinstance(value, dict):
        return False
    return value["kind"] == "demo" if "kind" in value else {"demo", "train"} <= value.keys()


def preset_configs(recipe: TrainConfig, folder: Path) -> dict[str, TrainConfig]:
    """The settings of both trainings. At the recipe's learning rate, `paper` loses more."""
    rates = {"paper": recipe.learning_rate / 2, "exact": recipe.learning_rate}
    return {
        preset: replace(recipe, preset=preset, learning_rate=rate, output_dir=str(folder / preset))
        for preset, rate in rates.items()
    }


def measure_and_train(
    config: DemoConfig, recipe: TrainConfig, presets: dict[str, TrainConfig]
) -> Measurements:
    """Measures the base model, trains it with both presets and measures the results, in two
    processes."""
    base = recipe.model
    final = [str(Path(one.output_dir) / "final") for one in presets.values()]
    with process_pool(2) as pool:
        full, zipvl, before = run_jobs(
            pool,
            "1/4 measuring the base model",
            [
                partial(table_records, base, "full", config, recipe),
                partial(table_records, base, "zipvl", config, recipe),
                partial(curve_rows, base, config, recipe),
            ],
        )
        run_jobs(
            pool,
            "2/4 post-training, presets paper and exact",
            [partial(train, one, line=1 + i) for i, one in enumerate(presets.values())],
        )
        paper, exact, curve_paper, curve_exact = run_jobs(
            pool,
            "3/4 measuring the trained models",
            [partial(table_records, path, "zipvl", config, recipe) for path in final]
            + [partial(curve_rows, path, config, recipe) for path in final],
        )
        ratio = table_row("", exact).token_ratio
        topk, downsample = run_jobs(
            pool,
            "4/4 measuring the untrained model at that token ratio",
            [partial(table_records, base, name, config, recipe, ratio) for name in BASELINES],
        )
    records = {"full": full, "zipvl": zipvl, "paper": paper, "exact": exact}
    return Measurements(
        records=records | {"topk": topk, "downsample": downsample},
        curves={
            # Full's level is of the questions that the curves are of.
            "Full": [table_row("Full", first(full, config.curve_questions))],
            "ZipVL (before)": before,
            "ZipR1 (paper)": curve_paper,
            "ZipR1 (exact)": curve_exact,
        },
    )


def table_records(
    model: str, method: str, config: DemoConfig, recipe: TrainConfig, ratio: float = 1.0
) -> list[Record]:
    """The records of one model under one method; runs in a process of its own."""
    torch.set_num_threads(1)
    examples = examples_of(recipe.tasks, "test", config.questions)
    rule = rule_of(method, recipe.p, ratio, SHORTENERS, recipe.choice)
    return evaluate(*load_vision(model), examples, rule, method, generation_settings(recipe))


def curve_rows(model: str, config: DemoConfig, recipe: TrainConfig) -> list[TableRow]:
    """The points of one model's curve; runs in a process of its own."""
    torch.set_num_threads(1)
    loaded = load_vision(model)
    questions = min(config.curve_questions, config.questions)
    examples, settings = examples_of(recipe.tasks, "test", questions), generation_settings(recipe)
    return [
        table_row(
            "ZipVL",
            evaluate(*loaded, examples, TopP(p, recipe.choice), f"p = {p:g}", settings),
        )
        for p in config.thresholds
    ]


def generation_settings(recipe: TrainConfig) -> GenerationSettings:
    return GenerationSettings(scope=recipe.scope, quiet=True)


def table_rows(records: dict[str, list[Record]]) -> list[TableRow]:
    full = records["full"]
    trained = [table_row("ZipR1", records[preset], full, preset) for preset in PRESETS]
    untrained = [table_row(name, records[key], full) for key, name in BASELINES.items()]
    return [
        table_row("Full", full),
        table_row("ZipVL", records["zipvl"], full),
        *trained,
        *untrained,
    ]


def summary(rows: list[TableRow], p: float, seconds: float, folder: Path) -> str:
    """One sentence for a human."""
    _, zipvl, _, exact, topk, shrunk = rows
    return (
        f"ZipR1 (exact) answers from {exact.token_ratio:.1%} of the tokens at p = {p:g} "
        f"(ZipVL before training: {zipvl.token_ratio:.1%}) at a mean accuracy of "
        f"{exact.accuracy:.1%} ({100 * exact.difference:+.1f} points to Full); the untrained model "
        f"with TopK at that ratio {topk.accuracy:.1%}, with images downsampled to "
        f"{shrunk.token_ratio:.1%} of the tokens {shrunk.accuracy:.1%}; {seconds:.0f} s; "
        f"everything is in {folder}/"
    )


def draw_kept_tokens(trained: str, recipe: TrainConfig, folder: Path) -> None:
    """kept-*.png: the kept tokens of a test image and a test video, before and after training."""
    shapes, motion = (examples_of([task], "test", 1)[0] for task in ("shapes", "motion"))
    shapes.image.save(folder / "shapes.png")
    write_video(motion.frames, folder / "motion.mkv")
    for example, file in ((shapes, "shapes.png"), (motion, "motion.mkv")):
        for name, model in (("before", recipe.model), ("after", trained)):
            settings = {"model": model, "p": recipe.p, "scope": recipe.scope, "max_new_tokens": 8}
            out = str(folder / f"kept-{Path(file).stem}-{name}.png")
            files = [str(folder / file)]
            answer(AnswerConfig(example.question, files, picture=out, **settings))


def write_video(frames: tuple, path: Path) -> None:
    """Without loss, so that the model sees what was tested."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=int(VIDEO_FPS))
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
