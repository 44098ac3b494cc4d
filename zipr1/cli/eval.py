"""`zipr1 eval`: picks the suite."""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from zipr1.evaluation.config import EvalConfig, trained_models
from zipr1.evaluation.evaluate import evaluate
from zipr1.evaluation.methods import SHORTER, rule_of
from zipr1.evaluation.records import write_records
from zipr1.models.loading import load_vision
from zipr1.models.settings import trained_settings
from zipr1.sparsity.rules import TopP
from zipr1.tasks import examples_of


def run_paper_suite(config: EvalConfig) -> tuple[list[dict], str]:
    """Tables 1 and 2; writes tables.md, tables.json and tables.tex. Raises SuiteError, after writing, if a task failed."""
    from zipr1.common.provenance import provenance
    from zipr1.common.recipe import read_recipe
    from zipr1.evaluation.paper.suite import SuiteConfig, SuiteError, run_suite
    from zipr1.evaluation.paper.tables import suite_latex, suite_markdown, suite_rows

    def threshold(model: str) -> float:
        return trained_settings(model).p if config.p is None else config.p

    settings, folder = read_recipe(SuiteConfig, config.recipe), Path(config.output_dir)
    methods = {
        "Full": {"pretrained": config.model, "method": "full"},
        "ZipVL": {"pretrained": config.model, "method": "zipvl", "p": threshold(config.model)},
    }
    for row, model in trained_models(config.trained).items():
        methods[row] = {"pretrained": model, "method": "zipvl", "p": threshold(model)}
    files, failed = run_suite(settings, methods, folder)
    rows = suite_rows(settings.benchmarks, files, failed)
    tables = suite_markdown(rows)
    (folder / "tables.md").write_text(tables)
    (folder / "tables.tex").write_text(suite_latex(rows))
    origin = provenance()
    origin["versions"]["lmms-eval"] = version("lmms-eval")
    (folder / "tables.json").write_text(
        json.dumps({"rows": rows, "failed": failed} | origin, indent=1)
    )
    if failed:
        reasons = "\n".join(f"{name}: {why}" for name, why in failed.items())
        raise SuiteError(
            f"{len(failed)} tasks failed, the rest is in {folder}:\n{reasons}", rows, tables
        )
    return rows, tables


def run_eval(config: EvalConfig) -> tuple[list[dict], str]:
    """Writes records.jsonl, table.md, table.json and, with thresholds in `curve`, curve.png; returns rows and table."""
    from zipr1.common.provenance import provenance
    from zipr1.evaluation.curves import plot_curves
    from zipr1.evaluation.statistics import table_row
    from zipr1.evaluation.tables import markdown

    if config.suite == "paper":
        return run_paper_suite(config)
    if config.suite == "tiny13":
        from zipr1.lab.tiny13 import run_tiny13

        return run_tiny13(config)
    torch.set_num_threads(config.threads)
    methods = config.methods.split(",")
    trained = trained_settings(config.model)
    p = trained.p if config.p is None else config.p
    rules = {
        method: rule_of(method, p, config.ratio, SHORTER, trained.choice) for method in methods
    }
    curve = [TopP(p, trained.choice) for p in config.thresholds]
    examples = examples_of(config.names, config.split, config.questions)
    model, processor = load_vision(config.model)
    settings = {
        "batch_size": config.batch_size,
        "scope": config.scope or trained.scope,
    }
    found = {
        method: evaluate(model, processor, examples, rule, method, **settings)
        for method, rule in rules.items()
    }
    folder = Path(config.output_dir)
    rows = [
        table_row(name, records, None if name == "full" else found.get("full"))
        for name, records in found.items()
    ]
    write_records(
        [record for records in found.values() for record in records], folder / "records.jsonl"
    )
    table = markdown(rows)
    (folder / "table.md").write_text(table)
    (folder / "table.json").write_text(
        json.dumps({"rows": rows, "config": asdict(config)} | provenance(), indent=1)
    )
    if curve:
        points = [
            evaluate(model, processor, examples, rule, f"p = {rule.p:g}", **settings)
            for rule in curve
        ]
        points = [table_row("zipvl", records) for records in points]
        full = [row for row in rows if row["method"] == "full"]
        plot_curves({config.model: points} | ({"Full": full} if full else {}), folder / "curve.png")
        (folder / "curve.json").write_text(json.dumps(points, indent=1))
    return rows, table
