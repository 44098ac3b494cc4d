"""The command line parser: argparse over the fields of a settings dataclass, and recipes below."""

from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass
from inspect import cleandoc
from os.path import exists
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from docstring_parser import parse_from_object

from zipr1.cli.commands import COMMANDS, Command, load
from zipr1.cli.output import write
from zipr1.common.errors import InputError
from zipr1.common.recipe import Dumper, Loader, load_recipe, read_recipe, shipped
from zipr1.common.settings import (
    build,
    check_value,
    check_values,
    hints_of,
    merge,
    names_of,
    nearest,
    shortened,
)

OWN = ("config", "print_config", "help")  # options of every command


class Parser(ArgumentParser):
    """Takes no abbreviations; raises InputError where argparse would print its usage."""

    def __init__(self, **settings: Any):
        super().__init__(
            allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter, **settings
        )

    def error(self, message: str) -> None:
        raise InputError(f"{message}; `{self.prog} --help` lists the options")


def parse_command(command: Command, settings: type, arguments: list[str]) -> Any:
    """The settings of a command; None where only its help or its settings were to be printed.

    Recipes come first, in their order, and flags win over recipes. Raises InputError with the place
    of a mistake.
    """
    arguments, rest = split_rest(command, arguments)
    arguments = [underscored(argument) for argument in arguments]
    parser = Parser(
        prog=f"zipr1 {command.name}",
        usage=usage(command, settings),
        description=cleandoc(settings.__doc__ or ""),
    )
    wants_help = "--help" in arguments or "-h" in arguments
    add_positional(parser, command, settings, together=not wants_help)
    add_options(parser, command, settings)
    if wants_help:
        write(parser.format_help().removesuffix("\n"))
        return None
    check_flags(settings, arguments)
    given = vars(parser.parse_intermixed_args(arguments))
    words, recipes = given.pop("words"), given.pop("config", [])
    print_config = given.pop("print_config")
    if words and is_recipe(words[0], command):
        if command.training_recipe:
            if "recipe" in given:
                raise InputError(
                    f"--recipe {shortened(given['recipe'])}: {shortened(words[0])} is given by "
                    "position as well; leave one out"
                )
            given["recipe"] = words.pop(0)
        else:
            recipes = [words.pop(0), *recipes]
    values: dict[str, Any] = {}
    for path in recipes:
        values = merge(values, load_recipe(settings, path))
    values = merge(values, from_flags(settings, given))
    values = merge(values, assign_words(parser, command, settings, words, values))
    if command.rest and rest:
        values[command.rest] = rest
    if command.training_recipe and values.get("recipe"):
        read_recipe(load(COMMANDS["train"].settings), values["recipe"])  # refused before the work
    config = build(settings, values, "--")
    if print_config:
        text = yaml.dump(asdict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True)
        write(text.removesuffix("\n"))
        return None
    return config


def usage(command: Command, settings: type) -> str:
    """Arguments that may be left out in brackets, and dots after those that may be several."""
    hints = hints_of(settings)
    required = {name for name, _, default, _ in options_of(settings) if default is MISSING}
    several = {name for name in command.positional if get_origin(hints[name]) is list}
    names = [f"{name} ..." if name in several else name for name in command.positional]
    shown = [
        text if name in required else f"[{text}]"
        for name, text in zip(command.positional, names, strict=True)
    ]
    rest = f"-- {command.rest} arguments" if command.rest else ""
    parts = (f"zipr1 {command.name} [recipe] [options]", *shown, rest)
    return " ".join(part for part in parts if part)


def split_rest(command: Command, arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before -- and after it, for a command that hands those on."""
    if command.rest is None or "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def add_positional(parser: Parser, command: Command, settings: type, together: bool) -> None:
    """For the help one argument a field; for parsing one list, which `assign_words` divides."""
    if together:
        parser.add_argument("words", nargs="*", help=SUPPRESS)
        return
    described, hints = help_of(settings), hints_of(settings)
    kind = "recipe of `zipr1 train`" if command.training_recipe else "YAML file of options"
    where = "comes first" if command.positional else "optional, the first argument"
    parser.add_argument(
        "recipe", nargs="?", help=f"A {kind}, or the name of one that ships with zipr1; {where}."
    )
    for name in command.positional:
        nargs = "+" if get_origin(hints[name]) is list else None
        parser.add_argument(name, nargs=nargs, help=escaped(described[name]))


def add_options(parser: Parser, command: Command, settings: type) -> None:
    parser.add_argument(
        "--config",
        action="append",
        default=SUPPRESS,
        metavar="RECIPE",
        help="A recipe by name or path; of several, a later one wins.",
    )
    parser.add_argument(
        "--print_config", action="store_true", help="Print the settings as YAML and do nothing."
    )
    described, groups = help_of(settings), {"": parser}
    for name, hint, default, text in options_of(settings):
        if name in (*command.positional, command.rest):
            continue
        above = name.rpartition(".")[0]
        if above not in groups:
            groups[above] = parser.add_argument_group(above, escaped(described[above]))
        if default is MISSING:
            text = f"{text} (required)"
        elif default is not None:
            text = f"{text} (default: {default})"
        flags = [f"-{name[0]}"] * (name in command.short) + [f"--{name}"]
        takes: dict[str, Any] = {"metavar": type_name(hint)}
        if name in command.switches:
            takes = {"action": "store_true"}
        elif bool in (hint, *get_args(hint)):
            takes |= {"nargs": "?", "const": "true"}
        groups[above].add_argument(*flags, default=SUPPRESS, help=escaped(text), **takes)


def options_of(settings: type, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """(name, type, default, help) of each field, nested ones with dots."""
    described, hints = help_of(settings), hints_of(settings)
    for field in fields(settings):
        hint = hints.get(field.name)
        if is_dataclass(hint):
            yield from options_of(hint, f"{prefix}{field.name}.")
        elif hint is not None:
            made = field.default_factory is not MISSING
            default = field.default_factory() if made else field.default
            yield prefix + field.name, hint, default, described.get(field.name) or ""


def help_of(settings: type) -> dict[str, str]:
    """The help of each option: the string below its field, of the dataclass or one it extends."""
    kinds = reversed(settings.__mro__[:-1])
    return {
        param.arg_name: param.description
        for kind in kinds
        for param in parse_from_object(kind).params
    }


def type_name(hint: Any) -> str:
    """A type as the help shows it: "INT", "{paper,exact}", "STR ..."."""
    parts = [part for part in get_args(hint) if part is not NoneType]
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if get_origin(hint) is list:
        return "[A,B]"
    if isinstance(hint, type):
        return hint.__name__.upper()
    return " or ".join(map(type_name, parts))


def from_flags(settings: type, given: dict[str, str | bool]) -> dict[str, Any]:
    """The values of the flags, checked, nested ones in mappings of their own."""
    hints = {name: hint for name, hint, *_ in options_of(settings)}
    values: dict[str, Any] = {}
    for name, text in given.items():
        value = check_value(hints[name], parsed(hints[name], text), f"--{name}")
        for part in reversed(name.split(".")):
            value = {part: value}
        values = merge(values, value)
    return values


def parsed(hint: Any, text: str | bool) -> Any:
    """The value of a flag: its text where text is expected, else what the text is in YAML."""
    kinds = kinds_of(hint)
    if not isinstance(text, str):
        return text
    if text == "null" and NoneType in kinds:
        return None
    if get_origin(hint) is list and not text.startswith("["):
        return text.split(",")
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if str in kinds or text in words or (words and int not in kinds):
        return text
    try:
        value = yaml.load(text, Loader)
    except yaml.YAMLError:
        return text  # which the check of its type refuses
    return text if value is None else value  # null is a comment, or nothing, in YAML


def kinds_of(hint: Any) -> tuple:
    """The types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def assign_words(
    parser: Parser, command: Command, settings: type, words: list[str], values: dict
) -> dict[str, Any]:
    """Divides what was given by position among the fields; a list takes what the others leave.

    Raises InputError for a required field that neither the command line nor a recipe sets, and for
    a word too many.
    """
    hints, found = hints_of(settings), {}
    spare = len(words) - sum(get_origin(hints[name]) is not list for name in command.positional)
    for name in command.positional:
        several = get_origin(hints[name]) is list
        count = max(spare, 0) if several else 1
        if part := words[:count]:
            found[name] = part if several else part[0]
        words = words[count:]
    required = {name for name, _, default, _ in options_of(settings) if default is MISSING}
    if missing := [name for name in command.positional if name in required - {*found, *values}]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    if words:
        parser.error(f"unrecognized arguments: {shortened(' '.join(words))}")
    return check_values(settings, found, "")


def check_flags(settings: type, arguments: list[str]) -> None:
    """Raises InputError with an option that does not exist, and the one that was perhaps meant."""
    known = [*names_of(settings), *OWN]
    for argument in arguments:
        name = argument[2:].partition("=")[0]
        if argument == "--":
            return
        if argument.startswith("--") and name not in known:
            raise InputError(f"--{shortened(name)}: no such option" + nearest(name, known, "--"))


def underscored(argument: str) -> str:
    """--push-to-hub as --push_to_hub: both are taken, as transformers' own scripts do."""
    name, equals, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument


def is_recipe(word: str, command: Command) -> bool:
    """Whether the first word is a recipe; anything is one for a command without positions."""
    if not command.positional:
        return True
    named = word in shipped() and not exists(word)
    return named or Path(word).suffix in (".yaml", ".yml")


def escaped(text: str) -> str:
    """argparse formats help texts with %."""
    return text.replace("%", "%%")
