"""Tasks x methods -> records, one an answer; through generate(), as any user would."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from zipr1.config import check_positive, check_tasks
from zipr1.inputs import prepare, tokenizer_of, visual_grid
from zipr1.model import check_length, load_vision, sparse, trained_scope
from zipr1.rewards import accuracy, from_function
from zipr1.selection import Random, Recent, Rule, TopK, TopP
from zipr1.tasks import ALL_TASKS, TASKS
from zipr1.tasks.base import Example

MAX_NEW_TOKENS = 8


@dataclass
class EvalConfig:
    """`zipr1 eval`: measures a model under several methods, tasks by tasks."""

    model: str = "zipr1/tiny"  # hub id, folder, or the embedded model
    methods: str = "full,zipvl"  # of full, zipvl, topk, random, recent
    tasks: str = ",".join(TASKS)
    split: Literal["val", "test"] = "test"
    questions: int = 100  # per task
    p: float = 0.975  # of zipvl
    ratio: float = 0.25  # of topk, random and recent
    scope: Literal["attention", "layer"] | None = None  # what follows the kept tokens (zipr1.sparse); None: as trained
    curve: str = ""  # more thresholds for zipvl, as 0.9,0.99: accuracy against token ratio
    batch_size: int = 25
    suite: Literal["paper"] | None = None  # the paper's thirteen benchmarks through lmms-eval, under full and zipvl
    recipe: str = "recipes/eval_paper.yaml"  # of the suite: frames, pixel bounds, batch size
    trained: str | None = None  # of the suite: a model after post-training, for the row ZipR1
    output_dir: str = "runs/eval"
    threads: int = 2
    json: bool = False  # print the rows of the table as JSON

    def __post_init__(self):
        check_positive(self, "questions", "batch_size", "threads")
        check_tasks(self.tasks.split(","))
        foreign = SUITE_ONLY if self.suite is None else EMBEDDED_ONLY
        for field in fields(self):
            if field.name in foreign and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name}: {'an' if self.suite is None else 'not an'} option of --suite; see --recipe")


SUITE_ONLY = ("recipe", "trained")
EMBEDDED_ONLY = ("methods", "tasks", "split", "questions", "ratio", "scope", "curve", "batch_size", "threads")


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
    tokens: int  # of the prompt
    # Of sparse methods; None under "full" and in files of earlier versions:
    grid: tuple[int, int, int] | None = None  # frame pairs, rows, columns: the visual tokens in their order
    kept: tuple[str, ...] | None = None  # per layer, a bit a visual token (`packed`)


def packed(mask: np.ndarray) -> str:
    """A mask (n,) as base64 of its bits, the first token in the highest bit of the first byte."""
    return base64.b64encode(np.packbits(mask)).decode()


def rule_of(method: str, p: float, ratio: float) -> Rule | None:
    """The rule a method stands for; None is plain dense attention."""
    rules = {
        "full": lambda: None,
        "zipvl": lambda: TopP(p),
        "topk": lambda: TopK(ratio),
        "random": lambda: Random(ratio),
        "recent": lambda: Recent(ratio),
    }
    if method not in rules:
        raise ValueError(f"method {method!r}: expected one of {', '.join(rules)}")
    return rules[method]()


def examples_of(tasks: Iterable[str], split: str, count: int) -> list[Example]:
    """The first `count` questions of each task's split."""
    return [ALL_TASKS[name].example(split, i) for name in tasks for i in range(count)]


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
    rule: Rule | None,
    method: str,
    batch_size: int = 25,
    quiet: bool = False,
    scope: str = "attention",
    max_new_tokens: int = MAX_NEW_TOKENS,
    raw: bool = False,
    function: Callable | None = None,
) -> list[Record]:
    """Greedy answers to all examples under one rule; `raw` prompts have no chat template; a user's reward `function` calls a
    completion right that it gives more than half."""
    model.eval()
    records = []
    bar = tqdm(total=len(examples), desc=method, unit="answer", disable=quiet, leave=False)
    for part in batches(examples, batch_size):
        inputs = prepare(processor, part, raw=raw).to(model.device)
        length, layers = inputs["input_ids"].shape[1], model.config.get_text_config().num_hidden_layers
        check_length(model, inputs, max_new_tokens)
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False}
        if rule is None:
            out, ratios, kept = model.generate(**inputs, **settings), torch.ones(len(part), layers), None
        else:
            with sparse(model, rule, scope=scope) as trace:
                out, ratios = model.generate(**inputs, **settings), trace.layer_ratios
                kept = [layer.cpu().numpy() for layer in trace.kept]
        answers = tokenizer_of(processor).batch_decode(out[:, length:], skip_special_tokens=True)
        lengths = inputs["attention_mask"].sum(-1).tolist()
        drawn = kept is not None and all(len(example.pictures) + (example.frames is not None) == 1 for example in part)
        visual = inputs["mm_token_type_ids"].bool().cpu().numpy() if drawn else None
        rows = zip(part, answers, ratios.tolist(), lengths, strict=True)
        for i, (example, answer, layer_ratios, tokens) in enumerate(rows):
            right = from_function(function, [(example, answer)])[0] > 0.5 if function else accuracy(example, answer) == 1
            mean = sum(layer_ratios) / layers
            p = rule.p if isinstance(rule, TopP) else None
            row = (example.task, example.id, method, p, answer, example.answer, right, mean)
            where = (visual_grid(inputs, i, processor), tuple(packed(layer[i][visual[i]]) for layer in kept)) if drawn else ()
            records.append(Record(*row, tuple(round(ratio, 4) for ratio in layer_ratios), tokens, *where))
        bar.update(len(part))
    bar.close()
    return records


def write_records(records: list[Record], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))


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
    if config.trained:
        methods["ZipR1"] = {"pretrained": config.trained, "method": "zipvl", "p": config.p}
    files, failed = run_suite(settings, methods, folder)
    rows = suite_rows(settings.benchmarks, files, failed)
    tables = suite_markdown(rows)
    (folder / "tables.md").write_text(tables)
    (folder / "tables.tex").write_text(suite_latex(rows))
    (folder / "tables.json").write_text(json.dumps({"rows": rows, "failed": failed} | provenance(), indent=1))
    if failed:
        reasons = "\n".join(f"{name}: {why}" for name, why in failed.items())
        raise SuiteError(f"{len(failed)} tasks failed, the rest is in {folder}:\n{reasons}", rows, tables)
    return rows, tables


def run_eval(config: EvalConfig) -> tuple[list[dict], str]:
    """Writes records.jsonl, table.md, table.json and, with thresholds in `curve`, curve.png; returns rows and table."""
    from zipr1.provenance import provenance
    from zipr1.report import markdown, plot_curves, table_row

    if config.suite:
        return run_paper_suite(config)
    torch.set_num_threads(config.threads)
    methods = config.methods.split(",")
    rules = {method: rule_of(method, config.p, config.ratio) for method in methods}
    curve = [TopP(float(p)) for p in config.curve.split(",") if p]
    examples = examples_of(config.tasks.split(","), config.split, config.questions)
    model, processor = load_vision(config.model)
    settings = {"batch_size": config.batch_size, "scope": config.scope or trained_scope(config.model)}
    found = {method: evaluate(model, processor, examples, rule, method, **settings) for method, rule in rules.items()}
    folder = Path(config.output_dir)
    rows = [table_row(method, records, found.get("full")) for method, records in found.items()]
    write_records([record for records in found.values() for record in records], folder / "records.jsonl")
    table = markdown(rows)
    (folder / "table.md").write_text(table)
    (folder / "table.json").write_text(json.dumps({"rows": rows, "config": asdict(config)} | provenance(), indent=1))
    if curve:
        points = [evaluate(model, processor, examples, rule, f"p = {rule.p:g}", **settings) for rule in curve]
        points = [table_row("zipvl", records) for records in points]
        full = next((row["accuracy"] for row in rows if row["method"] == "full"), None)
        plot_curves({config.model: points}, full, folder / "curve.png")
        (folder / "curve.json").write_text(json.dumps(points, indent=1))
    return rows, table
