"""`zipr1 answer | train | eval | bench | bench train | demo | pretrain | report | plan | data check`: a dataclass each, for
flags and YAML.

Exit status 0, 2 for misuse (a bad value, file or setting) and 1 for a failure. Results go to stdout, the rest to stderr.
"""

import json
import sys
from dataclasses import asdict
from itertools import pairwise

from jsonargparse import set_parsing_settings

from zipr1.cli.parser import Parser, add_command, is_recipe, underscored
from zipr1.common.recipe import check_flags, check_keys, recipe_path

set_parsing_settings(
    docstring_parse_attribute_docstrings=True
)  # the help of an option is the string below its field


def parse(arguments: list[str]):
    """(command, its settings). Raises ValueError on unknown options, keys or values."""
    from zipr1.bench.config import BenchConfig
    from zipr1.bench.training import BenchTrainConfig
    from zipr1.evaluation.config import EvalConfig
    from zipr1.inference.answer import AnswerConfig
    from zipr1.lab.demo import DemoConfig
    from zipr1.lab.pretrain import PretrainConfig
    from zipr1.report.page import ReportConfig
    from zipr1.training.config import TrainConfig
    from zipr1.training.data_check import DataCheckConfig
    from zipr1.training.plan import PlanConfig

    arguments = [underscored(one) for one in arguments]
    if arguments[:1] == ["train"] and "--plan" in arguments:  # what that training would take
        arguments = ["plan", *(one for one in arguments[1:] if one != "--plan")]
    if arguments[:1] in (["train"], ["pretrain"], ["plan"]) and is_recipe(arguments[1:2]):
        arguments = [arguments[0], "--config", *arguments[1:]]
    for i, (flag, name) in enumerate(pairwise(arguments)):
        if flag == "--config":
            arguments[i + 1] = str(recipe_path(name))
        elif name.startswith("--config="):
            arguments[i + 1] = f"--config={recipe_path(name.removeprefix('--config='))}"
    recipes = [path for flag, path in pairwise(arguments) if flag == "--config"]
    recipes += [one.removeprefix("--config=") for one in arguments if one.startswith("--config=")]
    if arguments[:2] == [
        "bench",
        "train",
    ]:  # `bench` has options of its own, which a parser with subcommands would not take
        parser = Parser(prog="zipr1 bench")
        add_command(parser.add_subcommands(dest="command"), "train", BenchTrainConfig, ("json",))
        given = ["--recipe", *arguments[2:]] if is_recipe(arguments[2:3]) else arguments[2:]
        for path in recipes:
            check_keys(BenchTrainConfig, path)
        check_flags(BenchTrainConfig, given)
        values = vars(parser.read(["train", *given], recipes)["train"])
        values.pop("config")
        return "bench train", BenchTrainConfig(**values)
    settings = {
        "answer": AnswerConfig,
        "train": TrainConfig,
        "eval": EvalConfig,
        "bench": BenchConfig,
        "demo": DemoConfig,
        "pretrain": PretrainConfig,
        "report": ReportConfig,
        "plan": PlanConfig,
        "data check": DataCheckConfig,
    }
    named = "data check" if arguments[:2] == ["data", "check"] else "".join(arguments[:1])
    if named in settings:  # jsonargparse's own messages name neither file nor mend
        for path in recipes:
            check_keys(settings[named], path)
        check_flags(settings[named], arguments)
    parser = Parser(prog="zipr1", description="Token-sparse Qwen-VL: answer, post-train, measure.")
    commands = parser.add_subcommands(dest="command")
    add_command(commands, "answer", AnswerConfig, ("compare", "json"), ("file", "question"))
    add_command(commands, "train", TrainConfig, ("resume", "json"))
    add_command(commands, "eval", EvalConfig, ("json",), ("model",))
    add_command(commands, "bench", BenchConfig, ("json",))  # and "bench train", above
    add_command(commands, "demo", DemoConfig, ("json",))
    add_command(commands, "pretrain", PretrainConfig)
    add_command(commands, "plan", PlanConfig, ("resume", "json"))
    add_command(commands, "report", ReportConfig, positional=("runs",), short=("output",))
    data = Parser(description="Data sets to post-train on.")
    commands.add_subcommand(
        "data", data, help="`check` reads a data set once and reports what of it cannot be used."
    )
    add_command(data.add_subcommands(dest="action"), "check", DataCheckConfig, ("json",), ("file",))
    chosen = parser.read(arguments, recipes)
    command = chosen.command
    values = parser.instantiate(chosen)[command]  # nested dataclasses too: the stages of pretrain
    if command == "data":
        command, values = f"data {values.action}", values[values.action]
    values = vars(values)
    values.pop("config")
    return command, settings[command](**values)


def run(command: str, config) -> str:
    """Runs a command and returns what it prints."""
    if command == "answer":
        from zipr1.inference.answer import answer, describe

        result = answer(config)
        return json.dumps(result) if config.json else describe(result)
    if command == "train":
        from accelerate import PartialState

        from zipr1.training.metrics import final_row
        from zipr1.training.train import train

        final = train(config)
        if not PartialState().is_main_process:
            return ""
        return json.dumps(final_row(final.parent)) if config.json else f"{final}"
    if command == "eval":
        from zipr1.cli.eval import run_eval
        from zipr1.evaluation.paper.suite import SuiteError

        try:
            rows, table = run_eval(config)
        except SuiteError as error:
            print(json.dumps(error.rows) if config.json else error.tables)
            raise
        return json.dumps(rows) if config.json else table
    if command == "bench":
        from zipr1.bench.bench import run_bench

        rows, table = run_bench(config)
        return json.dumps(rows) if config.json else table
    if command == "bench train":
        from zipr1.bench.training import run_bench_train

        rows, table = run_bench_train(config)
        return json.dumps(rows) if config.json else table
    if command == "demo":
        from zipr1.lab.demo import demo

        rows, found = demo(config)
        return json.dumps(rows) if config.json else found
    if command == "plan":
        from zipr1.training.plan import plan

        found = plan(config, config.prompt, config.ratio, config.processes, config.tflops)
        return (
            json.dumps(asdict(found) | {"total_gb": found.total_gb})
            if config.json
            else found.describe()
        )
    if command == "report":
        from zipr1.report.page import report

        return report(config)
    if command == "data check":
        from zipr1.training.data_check import DataError, check_data

        report = check_data(config)
        found = json.dumps(asdict(report)) if config.json else report.describe()
        if report.usable < report.rows:
            print(found)
            raise DataError(
                f"{config.file}: {report.rows - report.usable} of {report.rows} rows cannot be used"
            )
        return found
    from zipr1.lab.pretrain import pretrain

    return json.dumps({"config": asdict(config), "validation": pretrain(config)})


def main(arguments: list[str] | None = None) -> None:
    """The console script; `arguments` default to those of the process."""
    from zipr1.common.files import CheckpointError
    from zipr1.evaluation.paper.suite import SuiteError
    from zipr1.training.data_check import DataError

    try:
        command, config = parse(sys.argv[1:] if arguments is None else arguments)
        if found := run(command, config):
            print(found)
    except (ValueError, TypeError, FileNotFoundError) as error:  # MediaError is a ValueError
        sys.exit(complain(error, 2))
    except (
        CheckpointError,
        DataError,
        SuiteError,
        OSError,
        FloatingPointError,
        ModuleNotFoundError,
    ) as error:
        sys.exit(complain(error, 1))


def complain(error: Exception, status: int) -> int:
    print(f"zipr1: error: {error}", file=sys.stderr)
    return status
