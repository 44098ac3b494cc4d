"""The reference pages: commands and settings from their dataclasses, the API by mkdocstrings."""

from dataclasses import MISSING, fields
from inspect import cleandoc
from itertools import takewhile
from pathlib import Path
from typing import Literal, get_args, get_origin

import zipr1
from zipr1.cli.commands import COMMANDS, Command, load
from zipr1.cli.parser import options_of

SUITE = "zipr1.evaluation.paper.config:SuiteConfig"
EXTENSION_POINTS = [
    "zipr1.sparsity.rules.Rule",
    "zipr1.sparsity.probes.Scores",
    "zipr1.sparsity.budget.top_p_count",
    "zipr1.data.example.Example",
    "zipr1.tasks.base.Task",
    "zipr1.training.grpo",
]
NOTE = "*This page is generated from the code.*\n"
INTRODUCTION = """
Every option can also stand in a YAML recipe; unknown keys are errors.
A recipe is a path, or the name of one that [ships with the package](configuration.md#recipes).
It is the first argument, or follows `--config`; of several a later one wins, and flags win over all.
Hyphens and underscores in option names are interchangeable.
`--print_config` prints the settings and does nothing.

Results go to stdout, progress and logs to stderr.
Exit status: 0; 1 for a failure; 2 for a user mistake; 130 after an interrupt.
An unexpected error keeps its traceback.
"""


def text_of(settings: type) -> str:
    """The docstring of a settings class, without the command in front."""
    text = " ".join(cleandoc(settings.__doc__).split())
    text = text.split("`: ", 1)[1] if text.startswith("`zipr1 ") else text
    return text[:1].upper() + text[1:]


def type_text(kind) -> str:
    """A type as a user writes it: "float", "attention or layer", "list of str"."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if get_origin(kind) is list:
        return "list of " + " or ".join(map(type_text, parts))
    if get_origin(kind) is dict:
        return "mapping"
    if parts:
        return " or ".join(dict.fromkeys(map(type_text, parts)))
    return getattr(kind, "__name__", str(kind))


def default_text(value) -> str:
    if value is MISSING:
        return "required"
    if value is None or value in ("", [], {}):
        return "unset"
    return f"`{','.join(map(str, value))}`" if isinstance(value, list) else f"`{value}`"


def table(settings: type, command: Command | None = None, inherited: type | None = None) -> str:
    """A table of the options, without those of `inherited`."""
    known = {name for name, *_ in options_of(inherited)} if inherited else set()
    positional = command.positional if command else ()
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for name, kind, default, text in options_of(settings):
        if name in known:
            continue
        shown = name.upper() if name in positional else f"--{name}" if command else name
        cells = [f"`{shown}`", type_text(kind), default_text(default), " ".join(text.split())]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def command_line() -> str:
    """The page of the commands."""
    train = load(COMMANDS["train"].settings)
    parts = ["# Command line\n", NOTE, INTRODUCTION]
    for command in COMMANDS.values():
        settings = load(command.settings)
        positional = "".join(f" {name.upper()}" for name in command.positional)
        parts.append(f"## `zipr1 {command.name}`\n\n{command.summary}\n")
        parts.append(f"```\nzipr1 {command.name} [RECIPE]{positional} [options]\n```\n")
        parts.append(text_of(settings) + "\n")
        if settings is train:
            parts.append(
                "The options are those of [the configuration](configuration.md#training).\n"
            )
        elif issubclass(settings, train):
            parts.append("All options of `zipr1 train`, and:\n")
            parts.append(table(settings, command, inherited=train))
        else:
            parts.append(table(settings, command))
    return "\n".join(parts)


def presets() -> str:
    """What the presets of the objective differ in."""
    from zipr1.training.objective import PRESETS, Objective

    lines = ["| setting | " + " | ".join(f"`{name}`" for name in PRESETS) + " |"]
    lines.append("|---" * (len(PRESETS) + 1) + "|")
    for field in fields(Objective):
        values = [str(getattr(preset, field.name)) for preset in PRESETS.values()]
        if len(set(values)) == 1:
            continue
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
    train, suite = load(COMMANDS["train"].settings), load(SUITE)
    parts = [
        "# Configuration\n",
        NOTE,
        "Each command has one dataclass; its flags and its YAML keys are the fields.",
        "A dot in an option's name is a nested mapping in YAML.\n",
        "## Training\n",
        text_of(train) + "\n",
        table(train),
        "## Presets of the objective\n",
        "A setting of the same name in a recipe or on the command line replaces the preset's.",
        "[The method](../concepts/method.md) explains them.\n",
        presets(),
        "## Evaluation suite of the paper\n",
        text_of(suite) + "\n",
        table(suite),
        "## Recipes\n",
        "`zipr1 train tiny_zipr1` finds a recipe by name; a path works too.\n",
        recipes(),
    ]
    return "\n".join(parts)


def api() -> str:
    """The page of the public names, for mkdocstrings."""
    parts = ["# Python API\n", NOTE, "The public names can all be imported from `zipr1`.\n"]
    parts += [f"::: zipr1.{home}.{name}\n" for name, home in zipr1._HOME.items()]
    parts.append("# Extension points\n")
    parts += [f"::: {name}\n" for name in EXTENSION_POINTS]
    return "\n".join(parts)
