"""Reads a YAML recipe into the dataclass of a command; unknown keys are errors."""

from argparse import ArgumentError
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser


def read_recipe(settings: type, path: str | Path):
    """The settings in a file, everything else at its default. Raises FileNotFoundError or ValueError with the key."""
    check_keys(settings, path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(settings)
    try:
        return settings(**parser.parse_path(str(path)).as_dict())
    except ArgumentError as error:
        raise ValueError(f"{path}: {error}") from error


def check_keys(settings: type, path: str | Path) -> None:
    """Raises FileNotFoundError, or ValueError with a key that is no setting and the one that was perhaps meant."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such recipe; give the path of a YAML file, from the folder that you are in")
    try:
        found = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a recipe: a YAML file of settings, each as name: value")
    known = [field.name for field in fields(settings)]
    for key in found:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            raise ValueError(f"{path}: {key}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
