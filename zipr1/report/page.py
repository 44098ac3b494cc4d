"""`zipr1 report`: runs -> one page with their tables, curves and answers, and the kept tokens."""

import io
import json
import re
from datetime import datetime
from os.path import relpath
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from zipr1 import __version__
from zipr1.data.example import Example
from zipr1.evaluation.curves import plot_curves
from zipr1.evaluation.paper.tables import suite_tables
from zipr1.evaluation.statistics import LEARNED
from zipr1.report.browse import browsable
from zipr1.report.config import ReportConfig
from zipr1.report.pictures import examples_again, picture
from zipr1.report.runs import Run, read_run
from zipr1.training.curves import plot_training


def report(config: ReportConfig) -> str:
    """Writes the page; returns its path, its size and what it shows, and names what it does not.

    Raises InputError for a folder in which nothing can be read.
    """
    runs = [read_run(Path(folder)) for folder in dict.fromkeys(config.runs)]
    answers = browsable(runs, config.per_task)
    path = Path(config.output)
    page = Environment(
        loader=PackageLoader("zipr1.report", "assets"), autoescape=True, undefined=StrictUndefined
    )
    text = page.get_template("report.html").render(
        runs=[
            (run, charts(run), task_charts(run), links(run, path), sample_pictures(run))
            for run in runs
        ],
        answers=answers,
        data=embedded(answers),
        made=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        version=__version__,
        tables=suite_tables,
        learned=LEARNED,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    lines = [
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, {len(runs)} run{'s' * (len(runs) > 1)}, "
        f"{len(answers['questions'])} of {answers['asked']} questions to browse"
    ]
    return "\n".join(lines + [f"not shown: {problem}" for run in runs for problem in run.problems])


def embedded(value) -> Markup:
    """JSON for a script element; without "<" it cannot close the element or open a comment."""
    return Markup(json.dumps(value).replace("<", "\\u003c"))


def links(run: Run, page: Path) -> dict[str, str]:
    """What a link is called -> where it leads from the page: the run's folder, and its files."""
    folder = Path(run.name)
    paths = {run.name: folder} | {str(file.relative_to(folder)): file for file in run.files}
    return {
        name: quote(Path(relpath(path, page.parent)).as_posix()) + "/" * path.is_dir()
        for name, path in paths.items()
    }


def sample_pictures(run: Run) -> dict[tuple[str, str], str]:
    """(id, expected answer) of the samples of trainings -> their image as a data URI."""
    found = {}
    for name, rows in run.samples.items():
        settings = run.settings.get("train", {}).get(name) or run.settings.get("config", {})
        questions = [(row["id"], row["expected"]) for row in rows if {"id", "expected"} <= {*row}]
        for question, example in examples_again(questions, settings).items():
            if isinstance(example, Example):
                found[question] = picture(example).get("picture")
    return {question: uri for question, uri in found.items() if uri}


def charts(run: Run) -> dict[str, Markup]:
    """Title -> drawing."""
    found = {}
    if run.curves:
        found["Accuracy against token ratio"] = drawing(
            plot_curves, next(iter(run.curves.values()))
        )
    if run.training:
        found["Training"] = drawing(plot_training, run.training)
    return found


def task_charts(run: Run) -> dict[str, Markup]:
    """Task -> drawing, where a run has curves of each task."""
    return {
        task: drawing(plot_curves, curves) for task, curves in run.curves.items() if task != "mean"
    }


def drawing(plot, *arguments) -> Markup:
    """A plot as SVG, in the colours of the page: black and white follow its theme."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context(
        {"savefig.format": "svg", "savefig.transparent": True, "svg.fonttype": "none"}
    ):
        plot(*arguments, file)
    text = file.getvalue()
    text = re.sub("<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return Markup(text.replace("#000000", "currentColor").replace("#ffffff", "var(--card)"))
