"""JSON files with a "kind" and a "version", so that a reader knows what a file holds before it
looks inside; and JSON objects as dataclasses."""

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from zipr1.common.errors import InputError
from zipr1.common.files import replace
from zipr1.common.settings import shortened

VERSION = 1
FINITE = ConfigDict(allow_inf_nan=False)  # `__pydantic_config__` of a dataclass without NaN
T = TypeVar("T")


def write_document(path: Path, kind: str, content: dict) -> None:
    """Writes {"kind", "version", **content} atomically; NaN and infinities raise ValueError."""
    document = {"kind": kind, "version": VERSION} | content
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_document(path: Path, kind: str) -> Any:
    """The JSON value in a file, which is of this kind or of an earlier version that named none.

    Raises InputError, with the name of the file, for anything else.
    """
    value = read_json(path)
    if not isinstance(value, dict) or "kind" not in value:
        return value
    if value["kind"] != kind:
        raise InputError(f"{path}: kind is {shortened(value['kind'])}: expected {kind!r}")
    version = value.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{path}: version is {shortened(version)}: this zipr1 reads up to {VERSION}; update it"
        )
    return value


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises InputError, with the name of the file, without one."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not JSON ({str(error)[:200]}); run the command that wrote it again"
        ) from error


def read_lines(path: Path) -> tuple[list[dict], list[str]]:
    """The objects of a file of JSON lines, and "file:line: why" for each line that holds none.

    A run that was killed while writing leaves half a line. Raises InputError for a file that cannot
    be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    rows, faults = [], []
    for number, line in enumerate(text.split("\n"), 1):  # texts may hold other line separators
        if line:
            try:
                row = parse_json(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                faults.append(f"{path}:{number}: not a JSON object: {shortened(line)}")
    return rows, faults


def parse_json(text: str) -> Any:
    """json.loads, but NaN and Infinity, which are no JSON, raise ValueError."""

    def refuse(name: str):
        raise ValueError(f"{name} is no number of JSON")

    return json.loads(text, parse_constant=refuse)


def from_json(kind: type[T], row: Any) -> T:
    """A dataclass from a JSON value; lists become tuples, keys that are no field are left out.

    Raises ValueError, with the key, for one that is missing or has a value of another type.
    """
    return parse_as(kind, json.dumps(row))


def parse_as(kind: type[T], text: str) -> T:
    """`from_json` of a text. NaN and infinity raise ValueError too."""
    try:
        return adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(key) for key in first["loc"])
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ValueError(f"{place or 'line'}: {shortened(first['input'])}: {message}") from error


@cache
def adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)
