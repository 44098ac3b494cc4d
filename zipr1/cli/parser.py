"""The command line parser."""

from argparse import ArgumentError
from dataclasses import fields

from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser

from zipr1.common.recipe import told


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
    return {
        param.arg_name: param.description
        for kind in kinds
        for param in parse_from_object(kind).params
    }


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
        parser.add_argument(
            field,
            type=str,
            nargs="+" if types[field] == list[str] else None,
            help=described.get(field),
        )
    for field in flags:
        parser.add_argument(f"--{field}", action="store_true", help=described.get(field))
    for field in short:
        names = (f"-{field[0]}", f"--{field}")
        parser.add_argument(
            *names, type=str, default=getattr(settings, field), help=described.get(field)
        )
    parser.add_class_arguments(settings, skip={*flags, *positional, *short})
    commands.add_subcommand(name, parser, help=settings.__doc__.split(": ", 1)[1])


def underscored(argument: str) -> str:
    """--push-to-hub as --push_to_hub: both are taken, as transformers' own scripts do."""
    name, equals, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument


def is_recipe(given: list[str]) -> bool:
    """Whether the first argument is a file instead of an option."""
    return any(not one.startswith("-") for one in given)
