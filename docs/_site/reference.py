"""The reference pages: commands and settings from their dataclasses, the API by mkdocstrings."""

from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

import zipr1

COMMANDS = {
    "answer": "zipr1.inference.answer:AnswerConfig",
    "train": "zipr1.training.config:TrainConfig",
    "eval": "zipr1.evaluation.config:EvalConfig",
    "bench": "zipr1.bench.config:BenchConfig",
    "bench train": "zipr1.bench.training:BenchTrainConfig",
    "report": "zipr1.report.page:ReportConfig",
    "plan": "zipr1.training.plan:PlanConfig",
    "data check": "zipr1.training.data_check:DataCheckConfig",
    "demo": "zipr1.lab.demo:DemoConfig",
    "pretrain": "zipr1.lab.pretrain:PretrainConfig",
}
EXTENSION_POINTS = [
    "zipr1.sparsity.rules.Rule",
    "zipr1.sparsity.probes.Scores",
    "zipr1.sparsity.budget.top_p_count",
    "zipr1.data.example.Example",
    "zipr1.tasks.base.Task",
    "zipr1.training.grpo",
]
NOTE = "*This page is generated from the code.*\n"


def load(name: str) -> type:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def text_of(settings: type) -> str:
    """The docstring of a settings class, without the command in front."""
    text = " ".join(settings.__doc__.split())
    return text.split("`: ", 1)[1] if text.startswith("`zipr1 ") else text


def help_of(settings: type) -> dict[str, str]:
    """The string below each field, of the class or one that it extends."""
    described = {}
    for one in reversed(settings.__mro__[:-1]):
        for parameter in parse_from_object(one).params:
            described[parameter.arg_name] = " ".join((parameter.description or "").split())
    return described


def type_text(kind) -> str:
    """A type as a user writes it: `float`, `"a" | "b"`, `list[str]`, `... or unset`."""
    if kind is type(None):
        return "unset"
    if str(get_origin(kind)) == "typing.Literal":
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) in (list, tuple):
        return "list of " + ", ".join(
            dict.fromkeys(type_text(one) for one in get_args(kind) if one is not ...)
        )
    if get_args(kind):
        return " or ".join(dict.fromkeys(type_text(one) for one in get_args(kind)))
    return getattr(kind, "__name__", str(kind))


def default_text(field: Field) -> str:
    if field.default is not MISSING:
        value = field.default
    elif field.default_factory is not MISSING:
        value = field.default_factory()
    else:
        return "required"
    if is_dataclass(value):
        return "see below"
    if value is None:
        return "unset"
    shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"`{shown}`" if shown else "empty"


def options(settings: type, inherited: type | None = None, prefix: str = "") -> str:
    """A table of the fields without those of `inherited`; nested dataclasses follow below."""
    described, types = help_of(settings), get_type_hints(settings)
    known = {field.name for field in fields(inherited)} if inherited else set()
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    nested = []
    for field in fields(settings):
        if field.name in known:
            continue
        kind = types[field.name]
        inner = next((one for one in (kind, *get_args(kind)) if is_dataclass(one)), None)
        if inner is not None:
            nested.append((field.name, inner, get_origin(kind) is list))
        cells = [
            f"`--{prefix}{field.name}`" if not prefix.endswith("[].") else f"`{field.name}`",
            type_text(kind),
            default_text(field),
            described.get(field.name, ""),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    text = "\n".join(lines) + "\n"
    for name, inner, many in nested:
        text += f"\n`{prefix}{name}`: {text_of(inner)}\n\n"
        text += options(inner, prefix=f"{prefix}{name}[]." if many else f"{prefix}{name}.")
    return text


def command_line() -> str:
    """The page of the commands."""
    train = load(COMMANDS["train"])
    parts = [
        "# Command line\n",
        NOTE,
        "Every option can also stand in a YAML recipe (`--config FILE`); unknown keys are errors.",
        "Hyphens and underscores in option names are interchangeable.",
        "A recipe is a path or the name of one that ships with the package (`tiny_zipr1`).",
        "Exit status: 0, 2 for a user mistake, 1 for a failure.",
        "Results go to stdout, progress and logs to stderr.\n",
    ]
    for command, name in COMMANDS.items():
        settings = load(name)
        parts.append(f"## `zipr1 {command}`\n\n{text_of(settings)}\n")
        if settings is train:
            parts.append("Options: [Configuration](configuration.md#training).\n")
        elif issubclass(settings, train):
            parts.append("All options of `zipr1 train`, and:\n")
            parts.append(options(settings, inherited=train))
        else:
            parts.append(options(settings))
    return "\n".join(parts)


def presets() -> str:
    """The presets of the objective side by side."""
    from zipr1.training.objective import PRESETS, Objective

    names = list(PRESETS)
    lines = ["| setting | " + " | ".join(f"`{name}`" for name in names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for field in fields(Objective):
        values = [f"{getattr(PRESETS[name], field.name)}" for name in names]
        lines.append(f"| `{field.name}` | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def recipes() -> str:
    """The recipes that ship with the package, by their first comment."""
    folder = Path(zipr1.__file__).parent / "recipes"
    lines = ["| recipe | purpose |", "|---|---|"]
    for path in sorted(folder.glob("*.yaml")):
        comment = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
        purpose = " ".join(line.strip("# ") for line in comment).split(". ")[0].rstrip(".:") + "."
        lines.append(f"| `{path.stem}` | {purpose} |")
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """The page of the settings."""
    suite = load("zipr1.evaluation.paper.suite:SuiteConfig")
    parts = [
        "# Configuration\n",
        NOTE,
        "Each command has one dataclass; its flags and its YAML keys are the fields.\n",
        "## Training\n",
        f"{text_of(load(COMMANDS['train']))}\n",
        options(load(COMMANDS["train"])),
        "## Presets of the objective\n",
        "A setting of the same name in a recipe or on the command line replaces the preset's.",
        "What each one means is described in [the method](../concepts/method.md).\n",
        presets(),
        "## Evaluation suite of the paper\n",
        f"{text_of(suite)}\n",
        options(suite),
        "## Recipes\n",
        "`zipr1 train tiny_zipr1` finds a recipe by name; a path works too.\n",
        recipes(),
    ]
    return "\n".join(parts)


def api() -> str:
    """The page of the public names, for mkdocstrings."""
    parts = ["# Python API\n", NOTE, "The public names can all be imported from `zipr1`.\n"]
    for name, home in zipr1._HOME.items():
        parts.append(f"::: zipr1.{home}.{name}\n")
    parts.append("# Extension points\n")
    parts += [f"::: {name}\n" for name in EXTENSION_POINTS]
    return "\n".join(parts)
