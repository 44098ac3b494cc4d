"""Reads a YAML recipe into the dataclass of a command; unknown keys are errors."""

import re
from argparse import ArgumentError
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_path(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that ships with zipr1 ("tiny_zipr1"). Raises FileNotFoundError."""
    for path in (Path(name), RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise FileNotFoundError(
        f"{name}: no such recipe; give the path of a YAML file or one of {known}"
    )


def read_recipe(settings: type, path: str | Path):
    """The settings in a file, everything else at its default. Raises FileNotFoundError or ValueError with the key."""
    path = recipe_path(path)
    check_keys(settings, path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(settings)
    try:
        return settings(**parser.parse_path(str(path)).as_dict())
    except ArgumentError as error:
        raise ValueError(told(error, [path], [])) from error


def check_keys(settings: type, path: str | Path) -> None:
    """Raises FileNotFoundError, or ValueError with a key that is no setting and the one that was perhaps meant."""
    path = recipe_path(path)
    try:
        found = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a recipe: a YAML file of settings, each as name: value")
    known = [field.name for field in fields(settings)]
    for key in found:
        if key not in known:
            raise ValueError(f"{path}: {key}: no such setting" + nearest(str(key), known))


def check_flags(settings: type, arguments: list[str]) -> None:
    """Raises ValueError with an option that is none, and the one that was perhaps meant."""
    known = [field.name for field in fields(settings)]
    for name in (
        one[2:].partition("=")[0].partition(".")[0].rstrip("+")
        for one in arguments
        if one.startswith("--")
    ):
        if name not in (*known, "config", "print_config", "help", ""):
            raise ValueError(f"--{name}: no such option" + nearest(name, known, "--"))


def told(error: ArgumentError, recipes: list, arguments: list[str]) -> str:
    """jsonargparse's message as one line that says where the value stands and what may stand there. The recipes have passed
    `check_keys`."""
    message = " ".join(str(error).split()).rstrip(".")
    given = re.match(r'Parser key "(.+?)":.* value: (.*)$', message)
    if not given:
        if "arguments are required" in message:
            message = re.sub(r"(?<= )(?:\w+\.)+(?=\w)", "", message)  # the command before each name
        stray = re.search(r"^unrecognized arguments:.*\.ya?ml", message)
        return message + (
            "; a recipe comes first, or after --config"
            if stray
            else "; `--help` lists what there is"
        )
    key, value = given.groups()
    flagged = any(re.match(rf"--{key}\b", one) for one in arguments)
    holders = {
        path: found[key]
        for path in recipes
        if key in (found := yaml.safe_load(Path(path).read_text()))
    }
    named = [path for path, held in holders.items() if not flagged or str(held) == value]
    kinds = re.findall(r"Expected an? (.+?)(?=\. Got value| - | Given value)", message)
    kinds = [
        re.sub(r"^<class '(\w+)'>$", r"\1", kind).replace("typing.Literal", "one of ")
        for kind in kinds
    ]
    expected = " or ".join("null" if kind == "NoneType" else kind for kind in kinds)
    return (
        f"{named[-1]}: {key}: {value}" if named else f"--{key}={value}"
    ) + f": expected {expected}"


def nearest(name: str, known: list[str], before: str = "") -> str:
    """Words that name the most similar of those that are known, if one is."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {before}{near[0]}?" if near else ""
