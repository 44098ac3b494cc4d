"""Which image or video a part of a chat names: by its place, by its index into the row's media, or
by a path, URI or bytes of its own.

    {"type": "image"}    {"type": "image", "index": 1}    {"type": "image", "image": "b.png"}
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}

The second is that of TRL's data sets, the third Qwen's and transformers', the last OpenAI's.
"""

from pathlib import Path

from zipr1.common.errors import InputError
from zipr1.data.media_column import media_of_column
from zipr1.data.media_values import check_keys
from zipr1.data.placeholders import check_numbers
from zipr1.data.source import MediaFile, short
from zipr1.data.unseen_text import CUT_KEYS, check_no_cut

KINDS = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}
OWN = ("image", "image_url", "video", "video_url", "path", "url")  # keys of a part's own file
Files = tuple[MediaFile, ...]


def media_part(part: dict, where: str) -> dict:
    """A part of one of KINDS as {type, index, source}, the last two where it has them. Raises
    InputError."""
    kind = KINDS[part["type"]]
    sources = own_files(part)
    found = {"type": kind}
    if any(KINDS.get(key, kind) != kind for key in sources) or len(sources) > 1:
        raise InputError(
            f"{where} has a part of type {part['type']} with {' and '.join(sources)}: give one "
            f"{kind}"
        )
    read = ("type", "index", "text", *OWN)
    found_in = f"{where}: a part of type {part['type']}"
    check_keys(part, read, found_in, f"give one {kind}, as {kind!r}", beside=bool(sources))
    check_no_cut(part, CUT_KEYS, found_in)
    for value in sources.values():
        found["source"] = value.get("url", value) if isinstance(value, dict) else value
    if part.get("index") is not None:
        found["index"] = part["index"]
    return found


def own_files(part: dict) -> dict:
    """The files that a part names, by their key; Arrow gives a part keys without values."""
    given = {key: part[key] for key in OWN if part.get(key) not in (None, "")}
    return {
        key: value
        for key, value in given.items()
        if not isinstance(value, dict) or any(one is not None for one in value.values())
    }


def media_of_parts(
    turns: list[dict], given: dict[str, Files], root: Path, row_id: str, column: str
) -> tuple[Files, Files]:
    """(images, videos) in the order in which the parts of `turns` name them, where `given` are
    those of the row's columns by kind. Takes index and source out of the parts. Raises InputError
    for a part that names another file than the row has."""
    parts = [part for turn in turns for part in turn["content"] if part["type"] != "text"]
    where = f"row {row_id}: column {column!r}"
    check_numbers(turns, {kind: len(files) for kind, files in given.items()}, row_id)
    media = {}
    for kind in ("image", "video"):
        named = [part for part in parts if part["type"] == kind]
        indices = [part.pop("index", None) for part in named]
        sources = [part.pop("source", None) for part in named]
        files = by_index(given[kind], indices, f"{where} names {kind}s")
        own: Files = ()
        if any(source is not None for source in sources):
            own = tuple(media_of_column(source, root, column, row_id) for source in sources)
        media[kind] = equal(files, own, f"{where} names", f"the row's column of {kind}s")
    return media["image"], media["video"]


def by_index(files: Files, indices: list, where: str) -> Files:
    """The row's media in the order of the parts' indices; as they are if no part has one."""
    given = [index for index in indices if index is not None]
    if not given or not files:
        return files
    whole = all(isinstance(index, int) and not isinstance(index, bool) for index in indices)
    if not whole or sorted(indices) != list(range(len(files))):
        raise InputError(
            f"{where} by index {short(indices)}, the row has {len(files)}: give each of "
            f"0 to {len(files) - 1} once, or no index at all"
        )
    return tuple(files[index] for index in indices)


def equal(files: Files, own: Files, where: str, column: str) -> Files:
    """The row's media, or without any those that the parts name. Raises InputError where both are
    there and not the same."""
    if files and own and not (len(own) == len(files) and all(map(same, own, files))):
        raise InputError(
            f"{where} {short([file.name for file in own])}, {column} "
            f"{short([file.name for file in files])}: correct one of them, or remove it"
        )
    return files or own


def same(one: MediaFile, other: MediaFile) -> bool:
    """Whether they are the same file. The bytes in a table keep the name of the file they are of,
    so that the path in a chat is compared with it."""
    if (one.data is None) == (other.data is None):
        return one.data == other.data if one.data is not None else one.name == other.name
    return Path(one.name).name == Path(other.name).name
