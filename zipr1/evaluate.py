"""Tasks x methods -> records, one an answer; through generate(), as any user would."""

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from zipr1.config import check_positive, check_tasks
from zipr1.inputs import prepare, tokenizer_of, visual_grid
from zipr1.model import check_length, load_vision, sparse, trained_scope
from zipr1.rewards import accuracy
from zipr1.selection import FastV, Random, Recent, Rule, TopK, TopP
from zipr1.shorter import Downsample, FewerFrames, Shorter, without_minimum
from zipr1.tasks import ALL_TASKS, FAMILIES, TASKS
from zipr1.tasks.base import Example

MAX_NEW_TOKENS = 8


@dataclass
class EvalConfig:
    """`zipr1 eval`: measures a model under several methods, tasks by tasks."""

    model: str = "zipr1/tiny"
    """Hub id, folder, or the embedded model."""
    methods: str = "full,zipvl"
    """Of full, zipvl, topk, random, recent, fastv, downsample and fewer_frames (of clips)."""
    tasks: str | None = None
    """Unset, the six of the demo; in the suite tiny13 its thirteen families."""
    split: Literal["val", "test"] = "test"
    """Of the tasks' questions."""
    questions: int = 200
    """Per task."""
    p: float = 0.975
    """Of zipvl: the share of the attention to keep."""
    ratio: float = 0.25
    """Of the other methods: the share of the tokens to keep (fastv: from its layer on; downsample and fewer_frames: of the
    visual ones). In the suite tiny13 it is what the last of --trained kept."""
    scope: Literal["attention", "layer"] | None = None
    """What follows the kept tokens (zipr1.sparse); unset, what the model was trained for."""
    curve: str | None = None
    """More thresholds, as 0.9,0.99: accuracy against token ratio. The suite tiny13 has its own where this is unset."""
    curve_questions: int = 20
    """Per task, for each point of the curves of the suite tiny13."""
    batch_size: int = 25
    """Questions of one pass."""
    suite: Literal["paper", "tiny13"] | None = None
    """paper: its thirteen benchmarks through lmms-eval. tiny13: thirteen embedded families, with baselines, curves and cost."""
    recipe: str = "recipes/eval_paper.yaml"
    """Of the suite paper: frames, pixel bounds, batch size."""
    trained: str | None = None
    """Of a suite: a model after post-training, for the row ZipR1; or several, as paper=FOLDER,exact=FOLDER."""
    output_dir: str = "runs/eval"
    """Where records, tables and figures go; a suite goes on there where it stopped."""
    threads: int = 2
    """CPU threads; in the suite tiny13 processes of one thread, each with its own copy of the model."""
    json: bool = False
    """Print the rows of the table as JSON."""

    def __post_init__(self):
        check_positive(self, "questions", "curve_questions", "batch_size", "threads")
        check_tasks(self.names)
        for field in fields(self):
            if self.suite not in OWN.get(field.name, (self.suite,)) and getattr(self, field.name) != field.default:
                known = " or ".join("--suite " + suite if suite else "no suite" for suite in OWN[field.name])
                raise ValueError(
                    f"{field.name}: an option of {known}, not of {'--suite ' + self.suite if self.suite else 'none'}"
                )
        trained_models(self.trained)

    @property
    def names(self) -> list[str]:
        """Of the tasks."""
        if self.tasks is not None:
            return self.tasks.split(",")
        return list(FAMILIES if self.suite == "tiny13" else TASKS)

    @property
    def thresholds(self) -> list[float]:
        """Of the curve."""
        return [float(p) for p in (self.curve or "").split(",") if p]


# Options that not every kind of evaluation has, and which have them; None: the one without a suite.
OWN = {
    "recipe": ("paper",), "trained": ("paper", "tiny13"), "methods": (None,), "ratio": (None,), "curve_questions": ("tiny13",),
} | dict.fromkeys(("tasks", "split", "questions", "scope", "curve", "batch_size", "threads"), (None, "tiny13"))  # fmt: skip


def trained_models(text: str | None) -> dict[str, str]:
    """Row of the table -> model, of `FOLDER` or `name=FOLDER,name=FOLDER`."""
    if text is None or "=" not in text:
        return {"ZipR1": text} if text else {}
    models = {}
    for part in text.split(","):
        name, _, folder = part.partition("=")
        if not re.fullmatch(r"\w+", name) or not folder or f"ZipR1 ({name})" in models:
            raise ValueError(
                f"trained: {part!r} in {text!r}: give a folder, or name=FOLDER with commas between, each name once"
            )
        models[f"ZipR1 ({name})"] = folder
    return models


@dataclass(frozen=True)
class Record:
    """One answer: what was asked, under which method, what came, and from which share of the tokens."""

    task: str
    id: str
    method: str
    p: float | None
    answer: str
    expected: str
    right: bool
    token_ratio: float
    layer_ratios: tuple[float, ...]
    tokens: int  # of the prompt, as Full reads it
    # Of sparse methods; None under "full" and in files of earlier versions:
    grid: tuple[int, int, int] | None = None  # frame pairs, rows, columns: the visual tokens in their order
    kept: tuple[str, ...] | None = None  # per layer, a bit a visual token (`packed`)


def packed(mask: np.ndarray) -> str:
    """A mask (n,) as base64 of its bits, the first token in the highest bit of the first byte."""
    return base64.b64encode(np.packbits(mask)).decode()


SHORTER: dict[str, type[Shorter]] = {"downsample": Downsample, "fewer_frames": FewerFrames}


def rule_of(method: str, p: float, ratio: float, shorter: dict[str, type[Shorter]] | None = None) -> Rule | Shorter | None:
    """The rule a method stands for; None is plain dense attention. `shorter`: methods besides those of `zipr1.sparse`."""
    rules = {
        "full": lambda: None,
        "zipvl": lambda: TopP(p),
        "topk": lambda: TopK(ratio),
        "random": lambda: Random(ratio),
        "recent": lambda: Recent(ratio),
        "fastv": lambda: FastV(ratio),
    } | {name: partial(kind, ratio) for name, kind in (shorter or {}).items()}
    if method not in rules:
        raise ValueError(f"method {method!r}: expected one of {', '.join(rules)}")
    return rules[method]()


def examples_of(tasks: Iterable[str], split: str, count: int) -> list[Example]:
    """The first `count` questions of each task's split."""
    return [ALL_TASKS[name].example(split, i) for name in tasks for i in range(count)]


def first(rows: list, count: int) -> list:
    """The first `count` records, or questions, of each task."""
    tasks: dict[str, list] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    return [row for mine in tasks.values() for row in mine[:count]]


def batches(examples: list[Example], size: int) -> Iterator[list[Example]]:
    """Batches of one kind of medium: a clip's prompt is twice as long as a picture's."""
    for clip in (False, True):
        kind = [example for example in examples if (example.frames is not None) == clip]
        yield from (kind[i : i + size] for i in range(0, len(kind), size))


@torch.no_grad()
def evaluate(
    model,
    processor,
    examples: list[Example],
    rule: Rule | Shorter | None,
    method: str,
    batch_size: int = 25,
    quiet: bool = False,
    scope: str = "attention",
    max_new_tokens: int = MAX_NEW_TOKENS,
    raw: bool = False,
    function: Callable[[list[tuple[Example, str]], list[list[int]]], list[float]] | None = None,
    synced: bool = False,
) -> list[Record]:
    """Greedy answers to all examples under one rule; `raw` prompts have no chat template; `function` gives a number for each
    question with its answer, of which more than half is right, and gets the answers' tokens too; `synced`: all processes go on
    until the last has finished. Raises ValueError where a shorter prompt is asked for and none can be."""
    model.eval()
    shorter = rule if hasattr(rule, "shorten") else None
    if shorter and not (examples := [example for example in examples if shorter.takes(example)]):
        raise ValueError(f"{method}: nothing to leave out of any question; choose tasks that show clips")
    records = []
    bar = tqdm(total=len(examples), desc=method, unit="answer", disable=quiet, leave=False)
    for part in batches(examples, batch_size):
        inputs = prepare(processor, part, raw=raw).to(model.device)
        lengths, layers = inputs["attention_mask"].sum(-1), model.config.get_text_config().num_hidden_layers
        if shorter:
            inputs = shortened(processor, part, inputs, shorter).to(model.device)
        check_length(model, inputs, max_new_tokens)
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False, "synced_gpus": synced}
        if rule is None or shorter:
            out, kept = model.generate(**inputs, **settings), None
            ratios = (inputs["attention_mask"].sum(-1) / lengths)[:, None].expand(-1, layers)
        else:
            with sparse(model, rule, scope=scope) as trace:
                out, ratios = model.generate(**inputs, **settings), trace.layer_ratios
                kept = [layer.cpu().numpy() for layer in trace.kept]
        new, pad = out[:, inputs["input_ids"].shape[1] :], tokenizer_of(processor).pad_token_id
        answers = tokenizer_of(processor).batch_decode(new, skip_special_tokens=True)
        if function:
            pairs = list(zip(part, answers, strict=True))
            given = function(pairs, [row[row != pad].tolist() for row in new])
        drawn = kept is not None and all(len(example.pictures) + (example.frames is not None) == 1 for example in part)
        visual = inputs["mm_token_type_ids"].bool().cpu().numpy() if drawn else None
        rows = zip(part, answers, ratios.tolist(), lengths.tolist(), strict=True)
        for i, (example, answer, layer_ratios, tokens) in enumerate(rows):
            right = given[i] > 0.5 if function else accuracy(example, answer) == 1
            mean = sum(layer_ratios) / layers
            p = rule.p if isinstance(rule, TopP) else None
            row = (example.task, example.id, method, p, answer, example.answer, right, mean)
            where = (visual_grid(inputs, i, processor), tuple(packed(layer[i][visual[i]]) for layer in kept)) if drawn else ()
            records.append(Record(*row, tuple(round(ratio, 4) for ratio in layer_ratios), tokens, *where))
        bar.update(len(part))
    bar.close()
    return records


def shortened(processor, examples: list[Example], inputs, shorter: Shorter):
    """The batch again, showing less; `inputs` are those of the questions as they are."""
    kind = processor.image_processor if "image_grid_thw" in inputs else processor.video_processor
    cell = kind.patch_size * kind.merge_size
    less = [shorter.shorten(example, visual_grid(inputs, i, processor), cell) for i, example in enumerate(examples)]
    return prepare(without_minimum(processor), less)


def write_records(records: list[Record], path: Path) -> None:
    """One record a line; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(path.name + ".part")
    whole.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
    whole.replace(path)


def read_records(path: Path) -> list[Record]:
    """What `write_records` wrote, by this version or an earlier one. Raises ValueError with the line that is no record."""
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number}: not a record of `zipr1 eval` ({error}); run it again") from error
    return records


def run_paper_suite(config: EvalConfig) -> tuple[list[dict], str]:
    """Tables 1 and 2; writes tables.md, tables.json and tables.tex. Raises SuiteError, after writing, if a task failed."""
    from zipr1.provenance import provenance
    from zipr1.recipe import read_recipe
    from zipr1.suite import SuiteConfig, SuiteError, run_suite
    from zipr1.suite_report import suite_latex, suite_markdown, suite_rows

    settings, folder = read_recipe(SuiteConfig, config.recipe), Path(config.output_dir)
    methods = {
        "Full": {"pretrained": config.model, "method": "full"},
        "ZipVL": {"pretrained": config.model, "method": "zipvl", "p": config.p},
    }
    for row, model in trained_models(config.trained).items():
        methods[row] = {"pretrained": model, "method": "zipvl", "p": config.p}
    files, failed = run_suite(settings, methods, folder)
    rows = suite_rows(settings.benchmarks, files, failed)
    tables = suite_markdown(rows)
    (folder / "tables.md").write_text(tables)
    (folder / "tables.tex").write_text(suite_latex(rows))
    origin = provenance()
    origin["versions"]["lmms-eval"] = version("lmms-eval")
    (folder / "tables.json").write_text(json.dumps({"rows": rows, "failed": failed} | origin, indent=1))
    if failed:
        reasons = "\n".join(f"{name}: {why}" for name, why in failed.items())
        raise SuiteError(f"{len(failed)} tasks failed, the rest is in {folder}:\n{reasons}", rows, tables)
    return rows, tables


def run_eval(config: EvalConfig) -> tuple[list[dict], str]:
    """Writes records.jsonl, table.md, table.json and, with thresholds in `curve`, curve.png; returns rows and table."""
    from zipr1.provenance import provenance
    from zipr1.report import markdown, plot_curves, table_row

    if config.suite == "paper":
        return run_paper_suite(config)
    if config.suite == "tiny13":
        from zipr1.tiny13 import run_tiny13

        return run_tiny13(config)
    torch.set_num_threads(config.threads)
    methods = config.methods.split(",")
    rules = {method: rule_of(method, config.p, config.ratio, SHORTER) for method in methods}
    curve = [TopP(p) for p in config.thresholds]
    examples = examples_of(config.names, config.split, config.questions)
    model, processor = load_vision(config.model)
    settings = {"batch_size": config.batch_size, "scope": config.scope or trained_scope(config.model)}
    found = {method: evaluate(model, processor, examples, rule, method, **settings) for method, rule in rules.items()}
    folder = Path(config.output_dir)
    rows = [table_row(name, records, None if name == "full" else found.get("full")) for name, records in found.items()]
    write_records([record for records in found.values() for record in records], folder / "records.jsonl")
    table = markdown(rows)
    (folder / "table.md").write_text(table)
    (folder / "table.json").write_text(json.dumps({"rows": rows, "config": asdict(config)} | provenance(), indent=1))
    if curve:
        points = [evaluate(model, processor, examples, rule, f"p = {rule.p:g}", **settings) for rule in curve]
        points = [table_row("zipvl", records) for records in points]
        full = [row for row in rows if row["method"] == "full"]
        plot_curves({config.model: points} | ({"Full": full} if full else {}), folder / "curve.png")
        (folder / "curve.json").write_text(json.dumps(points, indent=1))
    return rows, table
