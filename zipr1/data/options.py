"""The options of a multiple choice question that a row keeps beside its prompt.

{"prompt": "Which animal?", "options": ["A. cat", "B. dog"], "answer": "A"}
{"prompt": "Which animal?", "choices": {"text": ["cat", "dog"], "label": ["A", "B"]}, ...}
{"prompt": "Which animal?", "A": "cat", "B": "dog", "answer": "A"}
"""

import json
import re
from ast import literal_eval
from collections.abc import Iterable, Iterator
from string import ascii_uppercase

from zipr1.common.errors import InputError
from zipr1.data.placeholders import NUMBERED, PLACEHOLDER
from zipr1.data.row import whole
from zipr1.data.source import short

LISTS = re.compile(r"(answer_?)?(options|choices)", re.IGNORECASE)  # names of columns
SINGLE = re.compile(r"(option|choice|opt)[ _]?([a-j]|\d)|op[ _]?[a-j]|([A-J])", re.IGNORECASE)
# "A. cat", "(A) cat", "a) cat"; "U.S. army" and "e.g. this" have none.
LETTER = re.compile(r"\s*(?:[(\[]([A-Za-z])[)\]]|([A-Z])\s*[.):](?!\w\.)|([a-z])[.)](?=\s|$))\s*")
FIX = "write them into the prompt, or remove the column"


def check_options_shown(row: dict, texts: Iterable[str], row_id: str) -> None:
    """Raises InputError where a column of the row has options that `texts`, the prompt, lacks."""
    given = list(held_options(row))
    prompt = plain("\n".join(texts)) if given else ""
    for name, options in given:
        missing = [option for option in options if plain(option) not in prompt]
        if missing:
            raise InputError(
                f"row {row_id}: the prompt does not show the options in column {name!r} "
                f"({short(missing[0], 60)}): {FIX}"
            )


def held_options(row: dict) -> Iterator[tuple[str, list[str]]]:
    """The columns with options, and the texts of these without their letters."""
    for name, value in row.items():
        if LISTS.fullmatch(name):
            yield name, texts_of_options(value)
    singles = {name: value for name, value in row.items() if is_single(name)}
    texts = {name: texts_of_options(value) for name, value in singles.items()}
    if sum(map(bool, texts.values())) > 1:  # a column "A" alone is none
        yield from texts.items()


def is_single(name: str) -> bool:
    """Whether a column is named like one option: A, option_b, choice1."""
    found = SINGLE.fullmatch(name)
    return found is not None and (found[3] is None or found[3].isupper())


def texts_of_options(value) -> list[str]:
    """The texts in a list or dict of options, also one that is written as a text."""
    if isinstance(value, dict):
        return texts_of_options(value["text"] if "text" in value else list(value.values()))
    if isinstance(value, list):
        return [text for one in value for text in texts_of_options(one)]
    if isinstance(value, str):
        inner = written_value(value) if value.lstrip().startswith(("[", "{")) else None
        if isinstance(inner, list | dict):
            return texts_of_options(inner)
        lines = (LETTER.sub("", line, count=1).strip() for line in value.splitlines())
        return [line for line in lines if line]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return [str(whole(value))] if is_number and value == value else []


def written_value(text: str):
    """What a text of JSON or Python says, or None."""
    for read in (json.loads, literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def plain(text: str) -> str:
    """A text without its placeholders of images and videos, which become parts of the prompt."""
    text = NUMBERED.sub(" ", PLACEHOLDER.sub(" ", text))
    return " ".join(text.split()).casefold()


def lettered(options, kind: str, problem: str, row_id: str) -> list[str]:
    """Video-R1's options, with letters where they have none. Raises InputError."""
    where = f"row {row_id}: column 'options' is {short(repr(options))}:"
    options = [] if options is None else options
    if not isinstance(options, list):
        raise InputError(f"{where} give a list of texts, empty for an open question")
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in options):
        raise InputError(f"{where} give texts, as 'A. cat'")
    texts = [str(whole(one)) for one in options]
    if kind != "multiple choice":
        return texts
    if not texts and not re.search(r"\bB[.):]", problem):
        raise InputError(f"{where} a multiple choice question needs its options")
    letters = [letter_of(text) for text in texts]
    if set(letters) == set(ascii_uppercase[: len(texts)]):
        return texts
    if any(map(str.__eq__, letters, ascii_uppercase)):
        raise InputError(f"{where} give each a letter, as 'A. cat', or none")
    return [f"{name}. {text}" for name, text in zip(ascii_uppercase, texts, strict=False)]


def letter_of(text: str) -> str:
    """The letter before an option, or the option itself if it is one letter; "" for neither. That
    of "E. coli" is found too."""
    if len(text.strip()) == 1 and text.strip().isalpha():
        return text.strip().upper()
    found = LETTER.match(text)
    return (found[1] or found[2] or found[3]).upper() if found else ""
