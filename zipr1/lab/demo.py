"""The whole story in ten minutes: measure, post-train with both presets, measure again, draw."""

import json
import shutil
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from zipr1.common.provenance import provenance
from zipr1.common.recipe import read_recipe
from zipr1.common.workers import process_pool, run_jobs
from zipr1.data.example import CLIP_FPS
from zipr1.evaluation.curves import plot_curves
from zipr1.evaluation.evaluate import evaluate
from zipr1.evaluation.methods import rule_of
from zipr1.evaluation.records import Record, first, write_records
from zipr1.evaluation.statistics import table_row
from zipr1.evaluation.tables import markdown
from zipr1.inference.answer import AnswerConfig, answer
from zipr1.lab.config import DemoConfig
from zipr1.models.loading import load_vision
from zipr1.sparsity.rules import TopP
from zipr1.tasks import examples_of
from zipr1.training.config import TrainConfig
from zipr1.training.curves import plot_training
from zipr1.training.train import train


def table_records(model: str, method: str, config: DemoConfig, recipe: TrainConfig) -> list[Record]:
    torch.set_num_threads(1)
    examples, rule = (
        examples_of(recipe.tasks, "test", config.questions),
        rule_of(method, recipe.p, 1.0),
    )
    return evaluate(*load_vision(model), examples, rule, method, quiet=True, scope=recipe.scope)


def curve_rows(model: str, config: DemoConfig, recipe: TrainConfig) -> list[dict]:
    torch.set_num_threads(1)
    loaded, examples = (
        load_vision(model),
        examples_of(recipe.tasks, "test", min(config.curve_questions, config.questions)),
    )
    rules = [TopP(float(p)) for p in config.curve.split(",")]
    settings = {"quiet": True, "scope": recipe.scope}
    return [
        table_row("ZipVL", evaluate(*loaded, examples, rule, f"p = {rule.p:g}", **settings))
        for rule in rules
    ]


def demo(config: DemoConfig) -> tuple[list[dict], str]:
    """Writes everything to `output_dir`; returns the rows of the table and what was found, in a table and a line."""
    began = time.time()
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(TrainConfig, config.recipe)
    if config.max_steps is not None:
        recipe = replace(recipe, max_steps=config.max_steps)
    rates = {
        "paper": recipe.learning_rate / 2,
        "exact": recipe.learning_rate,
    }  # at the recipe's, paper loses more
    presets = {
        preset: replace(recipe, preset=preset, learning_rate=rate, output_dir=str(folder / preset))
        for preset, rate in rates.items()
    }
    settings = {
        "demo": asdict(config),
        "train": {preset: asdict(one) for preset, one in presets.items()},
    }
    (folder / "config.json").write_text(json.dumps(settings | provenance(), indent=1))
    p, base = recipe.p, recipe.model
    for preset in presets:  # of an earlier demo
        shutil.rmtree(folder / preset, ignore_errors=True)
    final = {preset: str(folder / preset / "final") for preset in presets}
    with process_pool(2) as pool:
        full, zipvl, before = run_jobs(
            pool,
            "1/3 measuring the model as it is",
            [
                partial(table_records, base, "full", config, recipe),
                partial(table_records, base, "zipvl", config, recipe),
                partial(curve_rows, base, config, recipe),
            ],
        )
        run_jobs(
            pool,
            "2/3 post-training, presets paper and exact",
            [partial(train, c, line=1 + i) for i, c in enumerate(presets.values())],
        )
        paper, exact, curve_paper, curve_exact = run_jobs(
            pool,
            "3/3 measuring the trained models",
            [partial(table_records, path, "zipvl", config, recipe) for path in final.values()]
            + [partial(curve_rows, path, config, recipe) for path in final.values()],
        )
    rows = [table_row("Full", full), table_row("ZipVL", zipvl, full)]
    rows += [
        table_row("ZipR1", records, full, preset)
        for preset, records in (("paper", paper), ("exact", exact))
    ]
    for name, records in (("full", full), ("zipvl", zipvl), ("paper", paper), ("exact", exact)):
        write_records(records, folder / f"records-{name}.jsonl")
    table = markdown(rows)
    (folder / "table.md").write_text(table)
    (folder / "table.json").write_text(json.dumps(rows, indent=1))
    curves = {
        "Full": [table_row("Full", first(full, config.curve_questions))]
    }  # of the questions that the curves are of
    curves |= {"ZipVL (before)": before, "ZipR1 (paper)": curve_paper, "ZipR1 (exact)": curve_exact}
    (folder / "curve.json").write_text(json.dumps(curves, indent=1))
    plot_curves(curves, folder / "curve.png")
    plot_training(
        {preset: folder / preset / "metrics.jsonl" for preset in presets}, folder / "training.png"
    )
    pictures(final["exact"], recipe, folder)
    ours, start = rows[3], rows[1]
    line = (
        f"ZipR1 (exact) answers from {ours['token_ratio']:.1%} of the tokens at p = {p:g} (ZipVL before training: "
        f"{start['token_ratio']:.1%}) at a mean accuracy of {ours['accuracy']:.1%} ({100 * ours['difference']:+.1f} points to "
        f"Full); {time.time() - began:.0f} s; everything is in {folder}/"
    )
    return rows, f"{table}\n{line}"


def pictures(trained: str, recipe: TrainConfig, folder: Path) -> None:
    """The kept tokens on a test picture and a test clip, before and after training."""
    import av

    shapes, motion = (examples_of([task], "test", 1)[0] for task in ("shapes", "motion"))
    shapes.image.save(folder / "shapes.png")
    with av.open(str(folder / "motion.mkv"), "w") as container:
        stream = container.add_stream(
            "ffv1", rate=int(CLIP_FPS)
        )  # lossless: the model sees what was tested
        stream.width, stream.height, stream.pix_fmt = *motion.frames[0].size, "bgr0"
        for frame in motion.frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    for example, file in ((shapes, "shapes.png"), (motion, "motion.mkv")):
        for name, model in (("before", recipe.model), ("after", trained)):
            settings = {"model": model, "p": recipe.p, "scope": recipe.scope, "max_new_tokens": 8}
            out = str(folder / f"kept-{Path(file).stem}-{name}.png")
            answer(AnswerConfig(str(folder / file), example.question, picture=out, **settings))
