"""Refuses rows whose columns hold text that the prompt does not contain: further texts of the
question, and which part of a video or an image is meant."""

import re
from collections.abc import Iterable

from zipr1.common.errors import InputError
from zipr1.data.options import check_options_shown, plain
from zipr1.data.source import short

FURTHER = ("instruction", "input", "history")  # columns of Alpaca, read where it has no other chat
VIDEO = "(video|clip)_?(start|end)(_?(time|sec|seconds|s|frame))?|crop"
CUT_COLUMNS = {
    "video": re.compile(VIDEO, re.IGNORECASE),
    "image": re.compile("crop", re.IGNORECASE),
}
CUT_KEYS = re.compile(
    f"{VIDEO}|(start|end)(_?(time|sec|seconds|frame))?", re.IGNORECASE
)  # of parts


def check_unseen_text(row: dict, texts: Iterable[str], column: str, row_id: str) -> None:
    """Raises InputError where columns of the row have options, or other texts of the question, that
    `texts`, the prompt, lacks; `column` is the one that the prompt was read from."""
    texts = list(texts)
    check_options_shown(row, texts, row_id)
    for name in FURTHER if column != "instruction" else ():
        value = row.get(name)
        shown = isinstance(value, str) and plain(value) in plain("\n".join(texts))
        if shown or value in (None, "", []):
            continue
        raise InputError(
            f"row {row_id}: column {name!r} is {short(repr(value))}, which the prompt does not "
            f"show: write it into {column!r}, or remove the column"
        )


def check_no_cut(owner: dict, names: re.Pattern, where: str) -> None:
    """Raises InputError where `owner`, a row with media or a part of a message, says by a key that
    only a part of the video or the image is meant."""
    for key, value in owner.items():
        if value in (None, "", []) or not names.fullmatch(key) or ("start" in key and value == 0):
            continue
        if key.lower() == "crop" and not isinstance(value, list | dict):
            continue  # the crop of a field, in questions about plants
        raise InputError(
            f"{where} has {key!r} {short(value)}, but is shown as a whole: write that part to a "
            "file of its own, or remove it"
        )
