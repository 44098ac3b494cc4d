"""One function per command: runs it and returns the text to print on stdout."""

import json
from dataclasses import asdict

from zipr1.common.locking import alone


def answer(config) -> str:
    from zipr1.inference.answer import answer, describe

    result = answer(config)
    return json.dumps(result) if config.json else describe(result)


def play(config) -> str:
    from zipr1.inference.play import play

    play(config)
    return ""


def train(config) -> str:
    from accelerate import PartialState

    from zipr1.training.metrics import final_row
    from zipr1.training.trainer import Trainer

    final = Trainer(args=config).train()
    if not PartialState().is_main_process:
        return ""
    return json.dumps(final_row(final.parent)) if config.json else f"{final}"


def evaluate(config) -> str:
    from zipr1.cli.eval import run_eval
    from zipr1.evaluation.paper.rows import SuiteError

    try:
        with alone(config.output_dir):
            rows, table = run_eval(config)
    except SuiteError as error:
        error.found = json.dumps(error.rows) if config.json else error.tables
        raise
    return json.dumps(rows) if config.json else table


def serve(config) -> str:
    from zipr1.vllm.serve import serve

    serve(config)
    return ""


def bench(config) -> str:
    from zipr1.bench.bench import run_bench

    with alone(config.output_dir):
        rows, table = run_bench(config)
    return json.dumps(rows) if config.json else table


def bench_train(config) -> str:
    from zipr1.bench.training import run_bench_train

    with alone(config.output_dir):
        rows, table = run_bench_train(config)
    return json.dumps(rows) if config.json else table


def bench_serve(config) -> str:
    from zipr1.bench.serving import run_bench_serve

    with alone(config.output_dir):
        rows, table = run_bench_serve(config)
    return json.dumps(rows) if config.json else table


def demo(config) -> str:
    from zipr1.lab.demo import demo

    with alone(config.output_dir):
        rows, summary = demo(config)
    return json.dumps(rows) if config.json else summary


def pretrain(config) -> str:
    from zipr1.lab.pretrain import pretrain

    with alone(config.output_dir):
        return json.dumps({"config": asdict(config), "validation": pretrain(config)})


def plan(config) -> str:
    from zipr1.training.plan import plan

    sizes = config.prompt, config.ratio, config.processes
    found = plan(config, *sizes, config.tflops, config.shape)
    fits = found.total_gb <= config.memory
    if config.json:
        return json.dumps(asdict(found) | {"total_gb": found.total_gb, "fits": fits})
    return f"{found.describe()}\nfits in {config.memory:g} GB: {'yes' if fits else 'no'}"


def report(config) -> str:
    from zipr1.report.page import report

    return report(config)


def data_check(config) -> str:
    from zipr1.training.data_check import DataError, check_data

    report = check_data(config)
    text = json.dumps(asdict(report)) if config.json else report.describe()
    if report.usable < report.rows and not report.written:
        error = DataError(
            f"{config.file}: {report.rows - report.usable} of {report.rows} rows cannot be used"
        )
        error.found = text
        raise error
    return text
