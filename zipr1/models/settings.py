"""zipr1.json: the selection rule a model was trained for, kept beside its weights."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from huggingface_hub import is_offline_mode
from transformers.utils import cached_file

from zipr1.common.errors import InputError
from zipr1.common.scope import Scope
from zipr1.models.location import locate

FILE = "zipr1.json"
VERSION = 1

Choice = Literal["normalised", "accumulated"]


@dataclass(frozen=True)
class TrainedSettings:
    """The contents of zipr1.json; the defaults are those of a model without the file.

    rule: name of the selection rule. p: its threshold. choice: the scores that choose tokens.
    scope: see `zipr1.sparse`. preset, base, step: how the model was trained, from which model,
    for how many steps. version: of this format.
    """

    rule: Literal["TopP"] = "TopP"
    p: float = 0.975
    choice: Choice = "normalised"
    scope: Scope = "attention"
    preset: str | None = None
    base: str | None = None
    step: int | None = None
    version: int = VERSION


def trained_settings(name: str | Path, **options) -> TrainedSettings:
    """What a model (folder or hub id) was trained for; the defaults if it has no zipr1.json.

    `options` are the download options of from_pretrained (revision, token, cache_dir, subfolder).
    Raises InputError, naming file and key, for a file that is not valid.
    """
    location, download = locate(name, **options)
    path = cached_file(
        location,
        FILE,
        **download,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=not is_offline_mode(),
    )
    if path is None:
        return TrainedSettings()
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    return checked(found, path)


def checked(found, path: str | Path) -> TrainedSettings:
    """The contents of the file `path` as settings. Raises InputError with file and key."""
    if not isinstance(found, dict):
        raise InputError(f"{path}: must hold a JSON object, not {json.dumps(found)[:40]}")
    version = found.get("version", VERSION)
    if type(version) is not int or version < 1:
        raise InputError(f"{path}: version={shown(version)}: must be a positive integer")
    if version > VERSION:
        raise InputError(
            f"{path}: version={version}: written by a later zipr1, this one reads up to {VERSION}; "
            "update zipr1"
        )
    known = [field.name for field in fields(TrainedSettings)]
    for key, value in found.items():
        if key not in known:
            raise InputError(f"{path}: {key[:40]!r} is not a known key; use {', '.join(known)}")
        check_value(key, value, path)
    return TrainedSettings(**found)


def check_value(key: str, value, path: str | Path) -> None:
    """Raises InputError for a value that the key cannot have."""
    hints = TrainedSettings.__annotations__
    if key == "p":
        valid = type(value) in (int, float) and 0 < value <= 1
        expected = "a number in (0, 1]"
    elif key in ("rule", "choice", "scope"):
        valid = value in get_args(hints[key]) if isinstance(value, str) else False
        expected = " or ".join(map(repr, get_args(hints[key])))
    else:  # type() is, not isinstance: true is no integer here
        valid = type(value) is (int if key in ("step", "version") else str) or value is None
        expected = "an integer" if key in ("step", "version") else "a string"
    if not valid:
        raise InputError(f"{path}: {key}={shown(value)}: must be {expected}")


def shown(value) -> str:
    """A JSON value as it is in the file, cut to 40 characters."""
    return json.dumps(value)[:40]


def write_settings(settings: dict, folder: Path) -> None:
    """Writes zipr1.json. Raises InputError for settings that could not be read again."""
    path = Path(folder) / FILE
    values = asdict(checked(settings, path))
    values = {key: value for key, value in values.items() if value is not None}
    path.write_text(json.dumps(values, indent=1))
