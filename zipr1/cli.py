"""`zipr1 answer | train | eval | bench | bench train | demo | pretrain | report | plan | data check`: a dataclass each, for
flags and YAML.

Exit status 0, 2 for misuse (a bad value, file or setting) and 1 for a failure. Results go to stdout, the rest to stderr.
"""

import json
import sys
from argparse import ArgumentError
from dataclasses import asdict, fields
from itertools import pairwise

from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser, set_parsing_settings

from zipr1.recipe import check_flags, check_keys, told

set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the help of an option is the string below its field


class Parser(ArgumentParser):
    """Takes no abbreviations, and raises where jsonargparse prints a page of usage before its message."""

    def __init__(self, **settings):
        super().__init__(**{"allow_abbrev": False, "exit_on_error": False} | settings)

    def read(self, arguments: list[str], recipes: list[str]):
        """What is given. Raises ValueError that names the value, the place of it and what may stand there."""
        try:
            return self.parse_args(arguments)
        except ArgumentError as error:
            raise ValueError(told(error, recipes, arguments)) from error


def help_of(settings: type) -> dict[str, str]:
    """The help of each option: the string below its field, of the dataclass or one that it extends."""
    kinds = reversed(settings.__mro__[:-1])
    return {param.arg_name: param.description for kind in kinds for param in parse_from_object(kind).params}


def add_command(
    commands,
    name: str,
    settings: type,
    flags: tuple[str, ...] = (),
    positional: tuple[str, ...] = (),
    short: tuple[str, ...] = (),
) -> None:
    """A subcommand whose options are the fields of a dataclass; a YAML file may hold any of them.

    flags: fields that are switches; positional: fields without a name, of text or a list of it; short: fields of text that
    their first letter names too.
    """
    types = {field.name: field.type for field in fields(settings)}
    described = help_of(settings)
    parser = Parser(description=settings.__doc__)
    parser.add_argument("--config", action="config", help="YAML file with any of the options")
    for field in positional:
        parser.add_argument(field, type=str, nargs="+" if types[field] == list[str] else None, help=described.get(field))
    for field in flags:
        parser.add_argument(f"--{field}", action="store_true", help=described.get(field))
    for field in short:
        names = (f"-{field[0]}", f"--{field}")
        parser.add_argument(*names, type=str, default=getattr(settings, field), help=described.get(field))
    parser.add_class_arguments(settings, skip={*flags, *positional, *short})
    commands.add_subcommand(name, parser, help=settings.__doc__.split(": ", 1)[1])


def underscored(argument: str) -> str:
    """--push-to-hub as --push_to_hub: both are taken, as transformers' own scripts do."""
    name, equals, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument


def is_recipe(given: list[str]) -> bool:
    """Whether the first argument is a file instead of an option."""
    return any(not one.startswith("-") for one in given)


def parse(arguments: list[str]):
    """(command, its settings). Raises ValueError on unknown options, keys or values."""
    from zipr1.answer import AnswerConfig
    from zipr1.bench import BenchConfig
    from zipr1.bench_train import BenchTrainConfig
    from zipr1.config import TrainConfig
    from zipr1.data_check import DataCheckConfig
    from zipr1.demo import DemoConfig
    from zipr1.evaluate import EvalConfig
    from zipr1.html_report import ReportConfig
    from zipr1.plan import PlanConfig
    from zipr1.pretrain import PretrainConfig

    arguments = [underscored(one) for one in arguments]
    if arguments[:1] == ["train"] and "--plan" in arguments:  # what that training would take
        arguments = ["plan", *(one for one in arguments[1:] if one != "--plan")]
    if arguments[:1] in (["train"], ["pretrain"], ["plan"]) and is_recipe(arguments[1:2]):
        arguments = [arguments[0], "--config", *arguments[1:]]
    recipes = [path for flag, path in pairwise(arguments) if flag == "--config"]
    recipes += [one.removeprefix("--config=") for one in arguments if one.startswith("--config=")]
    if arguments[:2] == ["bench", "train"]:  # `bench` has options of its own, which a parser with subcommands would not take
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
    commands.add_subcommand("data", data, help="`check` reads a data set once and reports what of it cannot be used.")
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
        from zipr1.answer import answer, describe

        result = answer(config)
        return json.dumps(result) if config.json else describe(result)
    if command == "train":
        from accelerate import PartialState

        from zipr1.metrics import final_row
        from zipr1.train import train

        final = train(config)
        if not PartialState().is_main_process:
            return ""
        return json.dumps(final_row(final.parent)) if config.json else f"{final}"
    if command == "eval":
        from zipr1.evaluate import run_eval
        from zipr1.suite import SuiteError

        try:
            rows, table = run_eval(config)
        except SuiteError as error:
            print(json.dumps(error.rows) if config.json else error.tables)
            raise
        return json.dumps(rows) if config.json else table
    if command == "bench":
        from zipr1.bench import run_bench

        rows, table = run_bench(config)
        return json.dumps(rows) if config.json else table
    if command == "bench train":
        from zipr1.bench_train import run_bench_train

        rows, table = run_bench_train(config)
        return json.dumps(rows) if config.json else table
    if command == "demo":
        from zipr1.demo import demo

        rows, found = demo(config)
        return json.dumps(rows) if config.json else found
    if command == "plan":
        from zipr1.plan import plan

        found = plan(config, config.prompt, config.ratio, config.processes, config.tflops)
        return json.dumps(asdict(found) | {"total_gb": found.total_gb}) if config.json else found.describe()
    if command == "report":
        from zipr1.html_report import report

        return report(config)
    if command == "data check":
        from zipr1.data_check import DataError, check_data

        report = check_data(config)
        found = json.dumps(asdict(report)) if config.json else report.describe()
        if report.usable < report.rows:
            print(found)
            raise DataError(f"{config.file}: {report.rows - report.usable} of {report.rows} rows cannot be used")
        return found
    from zipr1.pretrain import pretrain

    return json.dumps({"config": asdict(config), "validation": pretrain(config)})


def main(arguments: list[str] | None = None) -> None:
    """The console script; `arguments` default to those of the process."""
    from zipr1.checkpoint import CheckpointError
    from zipr1.data_check import DataError
    from zipr1.suite import SuiteError

    try:
        command, config = parse(sys.argv[1:] if arguments is None else arguments)
        if found := run(command, config):
            print(found)
    except (ValueError, TypeError, FileNotFoundError) as error:  # MediaError is a ValueError
        sys.exit(complain(error, 2))
    except (CheckpointError, DataError, SuiteError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        sys.exit(complain(error, 1))


def complain(error: Exception, status: int) -> int:
    print(f"zipr1: error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
