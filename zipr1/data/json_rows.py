"""Rows of JSON files, checked: what is no object, a key twice, half characters and other encodings
are refused with file and row."""

import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator

from zipr1.common.errors import InputError
from zipr1.data.source import short

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # the escape of half a character
SPACE = re.compile(r"[ \t\n\r]*")
LINES = re.compile(r"\.(jsonl|ndjson)(\.\w+)?$")  # names of files with one object a line
UTF8 = "utf-8"


class Repeated(dict):
    """An object that had a key twice."""

    key = ""


def noted(pairs: list[tuple]) -> dict:
    """An object of JSON, a Repeated where a key comes twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        fields = Repeated(fields)
        fields.key = next(name for name in names if names.count(name) > 1)
    return fields


DECODER = json.JSONDecoder(object_pairs_hook=noted)


def rows_of(
    lines: Iterable[bytes], name: str, encoding: str = UTF8, field: str | None = None
) -> Iterator[dict]:
    """The objects in the lines of the file `name`: one a line, a list of them, or one as a whole;
    `field`: the list is its value. Raises InputError, which names file and row."""
    numbered = enumerate(lines, 1)
    only_lines = LINES.search(name) is not None and field is None
    for number, line in numbered:
        if number == 1:
            check_encoding(line, name)
            line = line.removeprefix(BOM_UTF8)
        if not line.strip():
            continue
        if not only_lines and (field or not is_whole(line)):
            yield from rows_of_text(b"\n" * (number - 1) + line, numbered, name, encoding, field)
            return
        only_lines = True
        yield from rows_of_line(line, f"{name}: line {number}", encoding)


def check_encoding(line: bytes, name: str) -> None:
    if line.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in line[:2]:
        raise InputError(f"{name}: it is written in UTF-16 or UTF-32: save it as UTF-8")


def is_whole(line: bytes) -> bool:
    """Whether a line holds objects; else a .json file is read as a whole."""
    try:
        return line.lstrip().startswith(b"{") and bool(
            list(values_in(line.decode(UTF8, "replace")))
        )
    except (ValueError, RecursionError):
        return False


def rows_of_line(line: bytes, place: str, encoding: str) -> Iterator[dict]:
    text = decoded(line, place, encoding)
    if not text.lstrip().startswith("{"):
        raise InputError(f"{place} is {short(text.strip())}: expected an object")
    for row in parsed(text, place):
        yield checked(row, place, SURROGATE.search(text) is not None)


def rows_of_text(
    start: bytes, rest: Iterable[tuple[int, bytes]], name: str, encoding: str, field: str | None
) -> Iterator[dict]:
    """The objects of a file that begins with `start` and goes on with the numbered lines `rest`."""
    text = decoded(start + b"".join(line for _, line in rest), name, encoding)
    values = parsed(text, name)
    if field and isinstance(values[0], dict):
        values = [values[0].get(field)]
    listed = len(values) == 1 and isinstance(values[0], list)
    halves = SURROGATE.search(text) is not None
    for number, row in enumerate(values[0] if listed else values):
        place = f"{name}: row {number}" if listed or len(values) > 1 else f"{name}: the file"
        yield checked(row, place, halves)


def decoded(content: bytes, place: str, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        found = content[error.start : error.start + 1].hex()
        line = content.count(b"\n", 0, error.start) + 1
        at = f" in line {line}" if line > 1 else ""
        raise InputError(
            f"{place}: it is not written in {encoding.upper()} (byte 0x{found}{at}): save the file "
            "as UTF-8"
        ) from error


def parsed(text: str, place: str) -> list:
    try:
        return list(values_in(text))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is no JSON ({short(error)}): correct it") from error


def values_in(text: str) -> Iterator:
    """The values that a text of JSON holds one after the other."""
    place = SPACE.match(text).end()
    while place < len(text):
        value, place = DECODER.raw_decode(text, place)
        yield value
        place = SPACE.match(text, place).end()


def checked(row, place: str, halves: bool) -> dict:
    """A row that is an object without a key twice and, where there may be some (`halves`), without
    half characters. Raises InputError."""
    if not isinstance(row, dict):
        raise InputError(f"{place} is {short(json.dumps(row))}: expected an object")
    key = repeated_key(row)
    if key is not None:
        raise InputError(f"{place} has the key {short(key)!r} twice: remove one")
    if halves:
        check_whole_characters(row, place)
    return row


def repeated_key(value) -> str | None:
    """The first key that an object in `value` had twice."""
    if isinstance(value, Repeated):
        return value.key
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        if isinstance(one, dict | list) and (key := repeated_key(one)) is not None:
            return key
    return None


def check_whole_characters(row: dict, place: str) -> None:
    """Raises InputError for a lone surrogate, as \\ud83d, in the texts of a row."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(error.object[error.start]):04x}"
        raise InputError(
            f"{place} has half a character, {found}: write both halves, or neither"
        ) from error
