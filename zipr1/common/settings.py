"""Settings dataclasses from plain values: types are checked, unknown keys are errors."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from zipr1.common.errors import InputError

LONGEST = 80  # characters of a value in a message


@cache
def hints_of(settings: type) -> dict[str, Any]:
    """Name -> type of each field that can be set."""
    hints = get_type_hints(settings)
    return {field.name: hints[field.name] for field in fields(settings) if field.init}


def names_of(settings: type, prefix: str = "") -> Iterator[str]:
    """All names that a recipe or a command line may set, with dots in nested ones."""
    for name, hint in hints_of(settings).items():
        if is_dataclass(hint):
            yield from names_of(hint, f"{prefix}{name}.")
        else:
            yield prefix + name


def check_value(hint: Any, value: Any, place: str) -> Any:
    """The value, of the type of a field. Raises InputError, whose message begins with `place`."""
    if is_dataclass(hint):
        return build(hint, check_values(hint, value, f"{place}: "), f"{place}: ")
    if get_origin(hint) is list and is_dataclass(item := get_args(hint)[0]):
        if not isinstance(value, list):
            raise InputError(f"{place}: {shortened(value)}: input should be a valid list")
        return [check_value(item, one, f"{place}[{i}]") for i, one in enumerate(value)]
    if isinstance(value, int) and abs(value) >= 2**63:
        raise InputError(f"{place}: {shortened(value)}: larger than any integer of 64 bits")
    try:
        return adapter(hint).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = place + "".join(f"[{key}]" for key in first["loc"] if isinstance(key, int))
        message = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(f"{where}: {shortened(first['input'])}: {message}") from error


@cache
def adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def check_values(settings: type, values: Any, before: str) -> dict[str, Any]:
    """Checks a mapping that sets some of the fields; nested dataclasses stay mappings.

    Raises InputError, whose message begins with `before` and the name of the field.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{before}{shortened(values)}: expected settings, each as name: value")
    hints, found = hints_of(settings), {}
    for name, value in values.items():
        if name not in hints:
            known = list(names_of(settings))
            raise InputError(
                f"{before}{shortened(name)}: no such setting" + nearest(str(name), known)
            )
        if is_dataclass(hints[name]):
            found[name] = check_values(hints[name], value, f"{before}{name}.")
        else:
            found[name] = check_value(hints[name], value, f"{before}{name}")
    return found


def build(settings: type, values: Mapping[str, Any], before: str = "") -> Any:
    """An instance of a dataclass from checked values. Raises InputError for one that is missing."""
    hints, given = hints_of(settings), dict(values)
    for field in fields(settings):
        if is_dataclass(hints.get(field.name)) and isinstance(given.get(field.name), Mapping):
            given[field.name] = build(hints[field.name], given[field.name], before)
        optional = field.default is not MISSING or field.default_factory is not MISSING
        if field.init and not optional and field.name not in given:
            raise InputError(f"{before}{field.name}: has no default; set it")
    return settings(**given)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The second over the first, nested mappings name by name."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def nearest(name: str, known: list[str], before: str = "") -> str:
    """Words that name the most similar of the known names, if one is similar."""
    same = [one for one in known if one.rpartition(".")[2] == name]
    near = same or get_close_matches(name, known, n=1)
    return f"; did you mean {before}{near[0]}?" if near else ""


def shortened(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
