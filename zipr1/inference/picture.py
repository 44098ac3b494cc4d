"""Whether `zipr1 answer --picture` can be written, found out before the answer."""

import os
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from zipr1.common.errors import InputError
from zipr1.data.media_column import media_of_text


def check_picture(name: str, files: list[str]) -> None:
    """Makes the folder. Raises InputError for a format that Pillow cannot write, for a place where
    no file can be, and for one of the `files` of the question, which would be lost."""
    path, where = Path(name), f"--picture {name}"
    if path.is_dir():
        raise InputError(f"{where}: a folder; give the name of a file in it")
    check_format(path, where)
    for text in files:
        if is_same(path, text):
            raise InputError(f"{where}: one of the files of the question; give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file" if path.parent.is_file() else error.strerror
        raise InputError(
            f"{where}: its folder {path.parent} cannot be made ({reason}); give another one"
        ) from error


def check_format(path: Path, where: str) -> None:
    """Writes an image into memory. Raises InputError where Pillow cannot."""
    known = Image.registered_extensions().get(path.suffix.lower())
    try:
        if known not in Image.SAVE:
            raise ValueError("no writer")
        Image.new("RGB", (1, 1)).save(BytesIO(), known)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{where}: not an image format that can be written in colour; use .png, .gif or .pdf"
        ) from error


def is_same(path: Path, text: str) -> bool:
    """Whether an argument names the file `path`, also by a link or as standard input."""
    try:
        if text == "-":
            return os.path.samestat(os.fstat(sys.stdin.fileno()), path.stat())
        return path.samefile(media_of_text(text, None).name)
    except (AttributeError, InputError, OSError, ValueError):  # one of them is no file on this disk
        return False
