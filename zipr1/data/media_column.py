"""What a column of a data set may hold for an image or a video: paths, URIs and bytes."""

import binascii
import re
from base64 import b64decode
from os.path import abspath, exists, normpath, sep
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from zipr1.common.errors import InputError
from zipr1.data.media_values import check_keys, is_content, media_kind_of
from zipr1.data.source import MediaFile, short

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def media_of_column(value, root: Path, name: str, row_id: str) -> MediaFile:
    """A path below `root`, a file or data URI, bytes, or the dict of path and bytes that `datasets`
    stores, found in column `name`. Raises InputError, which names row and column."""
    where = f"row {row_id}: column {name!r}"
    path, data = value, None
    if isinstance(value, dict):
        path, data = value.get("path"), value.get("bytes")
    elif isinstance(value, bytes):
        path, data = None, value
    if isinstance(value, dict):
        given, fix = path or data, "give the file itself as the value, several as a list"
        check_keys(value, ("path", "bytes"), where, fix, beside=given is not None)
    if isinstance(data, bytes):
        return MediaFile(
            short(path) if isinstance(path, str) and path else f"column {name!r}", data
        )
    if data is not None or not (isinstance(path, str) and path):
        frames = "; frames of a video: as images, or as one video file"
        raise InputError(
            f"{where} is {short(repr(value))}: give the path of a file below the media root, a "
            f"data URI, or bytes{frames if isinstance(value, list) else ''}"
        )
    return media_of_text(path, root, where)


def media_of_text(text: str, root: Path | None, where: str = "") -> MediaFile:
    """The file that a path, a file URI or a data URI names; below `root`, unless that is None.

    A row may name no file outside `root`: neither by .. nor by an absolute path. Links below the
    root are followed, because its owner made them. Raises InputError, which starts with `where`.
    """
    where = where and f"{where}: "
    scheme = text[: text.find(":")].lower() if URI.match(text) else ""
    if scheme == "data":
        return MediaFile(short(text, 60), data_of_uri(text, where))
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"{where}{short(text)}: a file on another machine; copy it")
        text = url2pathname(parts.path)
    elif scheme and "//" in text[: len(scheme) + 3]:
        raise InputError(f"{where}{short(text)}: media are not fetched from a network; download it")
    if root is None:
        return MediaFile(text)
    check_path(text, root, where)
    path = normpath(root / text)
    if not Path(abspath(path)).is_relative_to(abspath(root)):
        raise InputError(
            f"{where}{short(text)}: outside the media root {root}; set media_root to a folder "
            "above all media (/ allows any path)"
        )
    return MediaFile(path)


def check_path(text: str, root: Path, where: str) -> None:
    """Raises InputError for what is no path of one file, unless there is a file of that name."""
    if is_content(text):
        raise InputError(
            f"{where}{short(text, 60)}: base64 without its type: begin it with "
            "data:image/png;base64, or give bytes"
        )
    pieces = re.split(r"\s*[,;|]\s*", text)
    if text.lstrip().startswith("[") or (len(pieces) > 1 and all(map(media_kind_of, pieces))):
        fix = "several files in one text: give a list of paths"
    elif text != text.strip():
        fix = "a space at the beginning or the end: remove it"
    elif "\\" in text and sep != "\\":
        fix = "a path with backslashes: write it with /"
    else:
        return
    if not exists(root / text):
        raise InputError(f"{where}{short(repr(text))}: {fix}")


def data_of_uri(text: str, where: str) -> bytes:
    """The bytes of data:[type][;base64],content (RFC 2397). Raises InputError."""
    header, comma, content = text.partition(",")
    if not comma:
        raise InputError(f"{where}{short(text, 60)}: a data URI without a comma before its content")
    data = unquote_to_bytes(content)
    if not header.lower().rstrip().endswith(";base64"):
        return data
    data = b"".join(data.split()).replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    try:
        return b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise InputError(f"{where}{short(text, 60)}: not base64 ({error})") from error
