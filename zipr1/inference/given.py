"""What the command line and standard input of `zipr1 answer` give: files and the question."""

import re
import sys
from os.path import exists, isdir

from zipr1.common.errors import InputError
from zipr1.data.media_column import media_of_text
from zipr1.data.source import MediaFile, MissingMedia, short

PATTERN = re.compile(r"%\d*d|[*?]|\[[^\]]+\]")  # frames/%04d.png, *.png


def media_file(text: str) -> MediaFile:
    """What one argument names. Raises InputError for a URI that cannot be read, and MissingMedia
    for a file that does not exist."""
    if text == "-":
        data = input_bytes()
        if not data:
            raise InputError("standard input: empty; pipe an image or a video into it")
        return MediaFile("standard input", data)
    file = media_of_text(text, None)
    if file.data is None and not exists(file.name):
        raise MissingMedia(f"{short(file.name)}: no such file; {advice(file.name)}")
    return file


def advice(name: str) -> str:
    """What to do about a file that does not exist."""
    if name.startswith("~"):
        return "leave the ~ outside the quotes, the shell puts your home folder in its place"
    if PATTERN.search(name) and not isdir(name):
        return "a pattern is not expanded here; name the files, or leave out the quotes around *"
    return "check the path"


def question_of_input() -> str:
    """The question on standard input. Raises InputError for none, and for what is no UTF-8."""
    try:
        question = input_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input: the question is not UTF-8 (byte {error.start}); write it as UTF-8"
        ) from error
    if not question.strip():
        raise InputError("standard input: the question is empty: ask something")
    return question


def input_bytes() -> bytes:
    """All of standard input; nothing where it is closed."""
    return sys.stdin.buffer.read() if sys.stdin else b""
