"""Reads a YAML recipe into the dataclass of a command; unknown keys are errors."""

from argparse import ArgumentError
from pathlib import Path

from jsonargparse import ArgumentParser


def read_recipe(settings: type, path: str | Path):
    """The settings in a file, everything else at its default. Raises FileNotFoundError or ValueError with the key."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such recipe; run from the project's folder or give --recipe")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(settings)
    try:
        return settings(**parser.parse_path(str(path)).as_dict())
    except ArgumentError as error:
        raise ValueError(f"{path}: {error}") from error
