"""Media that a row has where zipr1 does not look for them: the model would be asked without
them."""

from pathlib import Path

from zipr1.common.errors import InputError
from zipr1.data.media_column import media_of_column
from zipr1.data.media_values import Held, held_media
from zipr1.data.part_media import Files, same

KNOWN = "media are read from the columns image, images, video and videos"


def check_unseen_media(
    columns: dict, shown: Files, root: Path, row_id: str, fix: str | None = None
) -> None:
    """Raises InputError, with what to do, where `columns`, which the prompt does not show, are or
    name media files other than those that are `shown`."""
    for name, value in columns.items():
        for held in held_media(name, value, root, beside=bool(shown)):
            if shown and is_shown(held, shown, root, row_id):
                continue
            fix = fix or (further_fix(held) if shown else only_fix(held, name))
            raise InputError(
                f"row {row_id}: {held.where(name)} is {held}, of which the prompt "
                f"shows nothing: {fix}"
            )


def is_shown(held: Held, shown: Files, root: Path, row_id: str) -> bool:
    """Whether this is one of the shown files again."""
    try:
        file = media_of_column(held.value, root, "", row_id)
    except InputError:
        return False
    return any(same(file, one) for one in shown)


def only_fix(held: Held, column: str) -> str:
    if held.kind == "audio":
        return "audio is not read, or remove the column"
    if held.inner:
        return f"move it to a column {held.kind!r} ({KNOWN}), or remove the column"
    return f"--columns {held.kind}={column}, or remove the column"


def further_fix(held: Held) -> str:
    fixes = {
        "image": "put all images into a list in one column 'images'",
        "video": "give one video at most, as column 'video'",
        "audio": "audio is not read",
    }
    return f"{fixes[held.kind]} ({KNOWN}), or remove the column"
