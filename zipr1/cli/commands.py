"""The commands: one table, from which the parser, the help and the dispatch derive."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Command:
    """One command. Paths are "module:name", imported when the command is chosen."""

    name: str
    summary: str  # one line for `zipr1 --help`
    settings: str  # the dataclass whose fields are the options
    runner: str  # config -> the text to print
    module: str  # does the work; takes seconds to import
    positional: tuple[str, ...] = ()  # fields given by position; a list takes several
    switches: tuple[str, ...] = ("json",)  # fields of type bool that take no value
    short: tuple[str, ...] = ()  # fields that their first letter names too
    training_recipe: bool = (
        False  # a recipe by position is one of `zipr1 train`: the field `recipe`
    )
    rest: str | None = None  # the field for what follows --


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "answer",
            "Answers a question about images, videos or text under sparse attention.",
            "zipr1.inference.config:AnswerConfig",
            "zipr1.cli.runners:answer",
            "zipr1.inference.answer",
            positional=("files", "question"),
            switches=("compare", "json"),
        ),
        Command(
            "play",
            "Opens a page in the browser: a question, sparse and dense answers, the kept tokens.",
            "zipr1.inference.play_config:PlayConfig",
            "zipr1.cli.runners:play",
            "zipr1.inference.play",
            positional=("model",),
            switches=(),
        ),
        Command(
            "train",
            "Post-trains a model with ZipR1.",
            "zipr1.training.config:TrainConfig",
            "zipr1.cli.runners:train",
            "zipr1.training.trainer",
            switches=("resume", "json"),
        ),
        Command(
            "eval",
            "Measures accuracy and token ratio of a model under several methods.",
            "zipr1.evaluation.config:EvalConfig",
            "zipr1.cli.runners:evaluate",
            "zipr1.cli.eval",
            positional=("model",),
        ),
        Command(
            "serve",
            "Serves a model in vLLM, whose prefill keeps a fraction of a prompt's tokens.",
            "zipr1.vllm.config:ServeConfig",
            "zipr1.cli.runners:serve",
            "zipr1.vllm.serve",
            positional=("model",),
            switches=(),
            rest="vllm",
        ),
        Command(
            "bench",
            "Times dense and sparse inference, compared with the theoretical bound.",
            "zipr1.bench.config:BenchConfig",
            "zipr1.cli.runners:bench",
            "zipr1.bench.bench",
        ),
        Command(
            "bench train",
            "Times the parts of a training step, sparse and dense.",
            "zipr1.bench.config:BenchTrainConfig",
            "zipr1.cli.runners:bench_train",
            "zipr1.bench.training",
            training_recipe=True,
        ),
        Command(
            "bench serve",
            "Times the server, dense and sparse in turns, with vLLM's own client.",
            "zipr1.bench.config:BenchServeConfig",
            "zipr1.cli.runners:bench_serve",
            "zipr1.bench.serving",
            positional=("model",),
        ),
        Command(
            "demo",
            "Measures the embedded model, post-trains it, and measures it again.",
            "zipr1.lab.config:DemoConfig",
            "zipr1.cli.runners:demo",
            "zipr1.lab.demo",
            training_recipe=True,
        ),
        Command(
            "pretrain",
            "Trains the embedded model by supervision.",
            "zipr1.lab.config:PretrainConfig",
            "zipr1.cli.runners:pretrain",
            "zipr1.lab.pretrain",
            switches=(),
        ),
        Command(
            "plan",
            "Estimates memory and FLOPs of a training step; trains nothing.",
            "zipr1.training.plan_config:PlanConfig",
            "zipr1.cli.runners:plan",
            "zipr1.training.plan",
            switches=("resume", "json"),
        ),
        Command(
            "report",
            "Writes one self-contained HTML page about finished runs.",
            "zipr1.report.config:ReportConfig",
            "zipr1.cli.runners:report",
            "zipr1.report.page",
            positional=("runs",),
            switches=(),
            short=("output",),
        ),
        Command(
            "data check",
            "Reads a data set once and reports the rows that training cannot use.",
            "zipr1.training.data_check_config:DataCheckConfig",
            "zipr1.cli.runners:data_check",
            "zipr1.training.data_check",
            positional=("file",),
            training_recipe=True,
        ),
    )
}


def load(path: str) -> Any:
    """What a "module:name" of the table stands for."""
    module, name = path.split(":")
    return getattr(import_module(module), name)
