"""Recipes: YAML files of settings, by path or by the name of one that ships with zipr1."""

import re
from collections.abc import Hashable
from os.path import isfile
from pathlib import Path
from typing import Any

import yaml

from zipr1.common.errors import InputError
from zipr1.common.settings import build, check_values, shortened

RECIPES = Path(__file__).parents[1] / "recipes"


class Loader(yaml.SafeLoader):
    """YAML with decimal numbers and without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if isinstance(name, Hashable) and names.count(name) > 1:
                raise yaml.YAMLError(f"{name} is set more than once")
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads as the same value."""


NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?[0-9][0-9_]*$",
    "tag:yaml.org,2002:float": (
        r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$|"
        r"[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
}


def read_number(loader: Loader, node: yaml.ScalarNode) -> int | float:
    """A decimal number, also one that begins with 0."""
    text = loader.construct_scalar(node).replace("_", "").lower()
    return (
        int(text)
        if node.tag.endswith(":int")
        else float(text.replace(".inf", "inf").replace(".nan", "nan"))
    )


# YAML 1.1 reads 010 as 8, 0x10 as 16, 1:30 as 90, and 1e-3 as text: here numbers are decimal.
for kind in (Loader, Dumper):
    kind.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] not in NUMBERS]
        for first, pairs in kind.yaml_implicit_resolvers.items()
    }
    for tag, pattern in NUMBERS.items():
        kind.add_implicit_resolver(tag, re.compile(pattern), list("-+.0123456789"))
for tag in NUMBERS:
    Loader.add_constructor(tag, read_number)


def recipe_path(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that ships with zipr1 ("tiny_zipr1").

    Raises InputError if there is neither.
    """
    if not str(name).strip():
        raise InputError("the name of a recipe is empty: give one, or leave it out")
    for path in (Path(name), RECIPES / f"{name}.yaml", RECIPES.parent / name):
        if isfile(path):  # Path.is_file() raises for a name that is too long
            return path
    known = ", ".join(shipped())
    raise InputError(
        f"{shortened(name)}: no such recipe; give the path of a YAML file or one of {known}"
    )


def shipped() -> list[str]:
    """The names of the recipes that ship with zipr1."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(settings: type, path: str | Path) -> dict[str, Any]:
    """The checked settings of a file. Raises InputError with the file, the key and the fix."""
    path = recipe_path(path)
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a recipe: a YAML file of settings, each as name: value")
    return check_values(settings, found, f"{path}: ")


def read_recipe(settings: type, path: str | Path) -> Any:
    """An instance of `settings` with the values in a file. Raises InputError as `load_recipe`."""
    return build(settings, load_recipe(settings, path), f"{path}: ")
