"""Media that a row of text names where zipr1 does not look for them: the model would be asked
without them."""

import re
from collections.abc import Iterable

from zipr1.common.errors import InputError
from zipr1.data.source import short

PLACE = re.compile(r"<image[ _]?\d+>|<audio>")  # MMMU's and LLaMA-Factory's
SUFFIXES = {
    "image": ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif", "avif", "heic"),
    "video": ("mp4", "mkv", "webm", "mov", "avi", "m4v", "mpg", "mpeg"),
    "audio": ("wav", "mp3", "flac", "ogg", "m4a"),
}
LONGEST = 255  # characters of a name of a file; more is a text that ends in one


def check_no_media(texts: Iterable[str], columns: dict, row_id: str) -> None:
    """Raises InputError for a row without media whose prompt (`texts`) has a place for some, or
    whose other columns name a media file."""
    for text in texts:
        if place := PLACE.search(text):
            raise InputError(
                f"row {row_id}: the prompt has {place[0]!r}, the row no media: give it as column "
                "'images' (audio is not read), or remove it from the prompt"
            )
    for name, value in columns.items():
        for one in value if isinstance(value, list) else [value]:
            if kind := media_kind_of(one):
                fix = "audio is not read" if kind == "audio" else f"--columns {kind}={name}"
                raise InputError(
                    f"row {row_id}: column {name!r} is {short(one)}, of which the prompt shows "
                    f"nothing: {fix}, or remove the column"
                )


def media_kind_of(value) -> str | None:
    """image, video or audio for the name of such a file; image for the dict of path and bytes that
    `datasets` stores; else None."""
    if isinstance(value, dict):
        return "image" if value.keys() == {"bytes", "path"} else None
    if not isinstance(value, str) or len(value) > LONGEST or "\n" in value:
        return None
    suffix = value.rpartition(".")[2].lower()
    return next((kind for kind, suffixes in SUFFIXES.items() if suffix in suffixes), None)
