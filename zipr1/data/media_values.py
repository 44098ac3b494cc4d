"""Whether a value of a row is an image, a video or sound, or names a file or an address of one."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from os.path import exists, join
from pathlib import Path

from zipr1.common.errors import InputError
from zipr1.data.source import short

SUFFIXES = {
    "image": ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif", "avif", "heic"),
    "video": ("mp4", "mkv", "webm", "mov", "avi", "m4v", "mpg", "mpeg"),
    "audio": ("wav", "mp3", "flac", "ogg", "m4a"),
}
KINDS_OF_SUFFIXES = {suffix: kind for kind, names in SUFFIXES.items() for suffix in names}
NUMBERS = (int, float)
ADDRESS = ("http://", "https://")
LONGEST = 255  # characters of a name of a file; more is a text that ends in one
DATA_URI = re.compile(r"data:(image|video|audio)/")
BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGODlh", "UklGR")  # PNG, JPEG, GIF and WebP
FIRST_BYTES = (
    ("image", re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL)),
    ("image", re.compile(rb"....ftyp(avif|avis|heic|heix|mif1)", re.DOTALL)),
    ("audio", re.compile(rb"RIFF....WAVE|ID3|OggS|fLaC", re.DOTALL)),
    ("video", re.compile(rb"\x1a\x45\xdf\xa3|RIFF....AVI |....ftyp", re.DOTALL)),
)

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")  # of secondImage, image_2, images2
WORDS_OF_KINDS = {
    "image": re.compile("(image|img|picture|pic|photo|screenshot|frame)s?"),
    "video": re.compile("(video|clip)s?"),
    "audio": re.compile("(audio|sound)s?|speech"),
}
POINTER = re.compile("(path|file|url|uri|link|dir|folder)s?|src|bytes|data")
# What says that a column is not the row's only one: image_2, second_image, image_left.
COUNT = re.compile(
    r"\d+|[a-d]|one|two|three|four|first|second|third|fourth|fifth|last|next|extras?|additional"
    "|further|more|others?|another|left|right|before|after|top|bottom|front|back|start|end|old|new"
    "|target|reference"
)
TEXTS = frozenset({"id", "content", "value", "text"})  # keys of texts that may end like a file


@dataclass(frozen=True)
class Held:
    """A value that is or names a media file, and where in its column it is."""

    kind: str  # image, video or audio
    inner: str  # the keys that lead to it in the column's value, joined by dots; "": the value
    value: object

    def where(self, column: str) -> str:
        return f"column {column!r}" + (f", key {self.inner!r}," if self.inner else "")

    def __str__(self) -> str:
        """The value for an error message."""
        data = self.value.get("bytes") if isinstance(self.value, dict) else self.value
        return f"a file of {len(data)} bytes" if isinstance(data, bytes) else short(self.value)


def held_media(
    name: str, value, root: Path | None, beside: bool = False, inner: str = ""
) -> Iterator[Held]:
    """All media in the value of a column, at any depth. `beside`: the row shows other media, whose
    names and addresses are no further ones; then only columns named like media count.

    Files whose names have no suffix are looked up below `root`.
    """
    if isinstance(value, str):
        kind = kind_of_text(f"{name}.{inner}", value, root, beside)
    else:
        kind = media_kind_of(value)
    if kind:
        yield Held(kind, inner, value)
    elif isinstance(value, dict):
        for key, one in value.items():
            if not (key in TEXTS and isinstance(one, str)):
                path = f"{inner}.{key}" if inner else str(key)
                yield from held_media(name, one, root, beside, path)
    elif isinstance(value, list):
        for one in value:
            if not isinstance(one, NUMBERS):  # an embedding has thousands
                yield from held_media(name, one, root, beside, inner)


def check_keys(
    owner: dict, known: Iterable[str], where: str, fix: str, beside: bool = False
) -> None:
    """Raises InputError where a message, a part of one or the value of a column has media under a
    key that is not `known`; `beside`: it has some under a known one too."""
    others = {key: value for key, value in owner.items() if key not in known}
    for held in held_media("", others, None, beside):
        raise InputError(f"{where} has {held} as {held.inner!r}, which no prompt shows: {fix}")


def kind_of_text(name: str, text: str, root: Path | None, beside: bool) -> str | None:
    """What a text in the column `name` is or names: image, video, audio or, mostly, None."""
    kind, named = media_kind_of(text), kind_of_name(name, beside)
    if kind and (named or not beside or is_content(text)):
        return kind
    if not named or not text.strip() or not is_file_name(text):
        return None
    is_there = root is not None and exists(join(root, text))
    return named if is_there or text.startswith(ADDRESS) else None


def media_kind_of(value) -> str | None:
    """image, video or audio for the bytes of such a file, its name, address or data URI, and for
    the dict of path and bytes that `datasets` stores; else None."""
    if isinstance(value, dict):
        given = value.keys() == {"bytes", "path"} and (value["bytes"] or value["path"])
        kinds = (media_kind_of(value[key]) for key in ("bytes", "path")) if given else ()
        return next(filter(None, kinds), "image") if given else None
    if isinstance(value, bytes):
        return next((kind for kind, start in FIRST_BYTES if start.match(value[:16])), None)
    if not isinstance(value, str):
        return None
    if is_content(value):
        uri = DATA_URI.match(value)
        return uri[1] if uri else "image"
    if not is_file_name(value):
        return None
    path = value.partition("?")[0] if value.startswith(ADDRESS) else value
    _, dot, suffix = path.rpartition(".")
    return KINDS_OF_SUFFIXES.get(suffix.lower()) if dot else None


def is_content(text: str) -> bool:
    """Whether a text is an image itself: a data URI or base64."""
    long = len(text) > LONGEST and text.startswith(BASE64) and not re.search(r"\s", text[:70])
    return long or DATA_URI.match(text) is not None


def is_file_name(text: str) -> bool:
    return len(text) <= LONGEST and "\n" not in text


@lru_cache(maxsize=1024)
def kind_of_name(name: str, beside: bool) -> str | None:
    """image, video or audio for a column named like such media (image_2, imagePath), else None; the
    noun at its end decides, so that image_id and image_caption are none. `beside`: image_path is
    the path of the image that is shown, image_path_2 of a further one."""
    words = [word.lower() for word in WORD.findall(name)]
    counted = any(map(COUNT.fullmatch, words))
    while words and COUNT.fullmatch(words[-1]):
        words.pop()
    pointer = bool(words) and POINTER.fullmatch(words[-1]) is not None
    while words and (COUNT.fullmatch(words[-1]) or POINTER.fullmatch(words[-1])):
        words.pop()
    noun = words[-1] if words else ""
    kinds = (kind for kind, word in WORDS_OF_KINDS.items() if word.fullmatch(noun))
    return next(kinds, None) if counted or not pointer or not beside else None
