"""`zipr1 eval MODEL --suite paper`: the benchmarks under each method, and Tables 1 and 2."""

import sys
from importlib.metadata import version
from pathlib import Path

from zipr1.common.provenance import provenance
from zipr1.common.recipe import read_recipe
from zipr1.evaluation.config import EvalConfig, trained_models
from zipr1.evaluation.methods import selection_of
from zipr1.evaluation.paper.config import SuiteConfig
from zipr1.evaluation.paper.results import paper_rows
from zipr1.evaluation.paper.rows import PaperRow, SuiteError, write_paper_rows
from zipr1.evaluation.paper.suite import run_suite
from zipr1.evaluation.paper.tables import suite_latex, suite_markdown


def run_paper(config: EvalConfig) -> tuple[list[PaperRow], str]:
    """Writes tables.md, tables.json and tables.tex; returns the rows and the tables.

    Raises SuiteError, after writing, if a task failed.
    """
    settings, folder = read_recipe(SuiteConfig, config.recipe), Path(config.output_dir)
    methods = {"Full": {"pretrained": config.model, "method": "full"}}
    for row, model in ({"ZipVL": config.model} | trained_models(config.trained)).items():
        p = selection_of(model, config.p, None).p
        methods[row] = {"pretrained": model, "method": "zipvl", "p": p}
    files, failed = run_suite(settings, methods, folder)
    rows = paper_rows(settings.benchmarks, files, failed)
    tables = suite_markdown(rows)
    (folder / "tables.md").write_text(tables)
    (folder / "tables.tex").write_text(suite_latex(rows))
    origin = provenance()
    origin["versions"]["lmms-eval"] = version("lmms-eval")
    write_paper_rows(rows, failed, origin, folder / "tables.json")
    print(f"tables, samples and logs are in {folder}/", file=sys.stderr)
    if failed:
        reasons = "\n".join(f"{name}: {why}" for name, why in failed.items())
        message = f"{len(failed)} tasks failed, the rest is in {folder}:\n{reasons}"
        raise SuiteError(message, [row.to_json() for row in rows], tables)
    return rows, tables
