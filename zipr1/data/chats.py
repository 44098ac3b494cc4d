"""Chats of data sets as messages with parts, each image and video at its place."""

from zipr1.common.errors import InputError
from zipr1.data.media_values import check_keys
from zipr1.data.part_media import KINDS, media_part, own_files
from zipr1.data.placeholders import PLACEHOLDER, check_numbers, placed_numbers
from zipr1.data.source import short

PARTS = ("text", *KINDS)  # of a message
MESSAGE = ("role", "content", "from", "value")  # its keys that are read
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


def chat(
    messages: list, images: int, videos: int, row_id: str, column: str = "prompt"
) -> tuple[dict, ...]:
    """`messages` as `placed_chat` gives them; for rows of one medium at most, whose parts name no
    files."""
    turns = turns_of(messages, row_id, column)
    check_numbers(turns, {"image": images, "video": videos}, row_id)
    for part in (part for turn in turns for part in turn["content"]):
        part.pop("index", None)
    return placed_chat(turns, images, videos, row_id, column)


def turns_of(messages: list, row_id: str, column: str) -> list[dict]:
    """Messages whose contents are lists of parts, media among them as `media_part` gives them.
    Raises InputError for what is no chat."""
    return [turn(message, place, row_id, column) for place, message in enumerate(messages)]


def placed_chat(
    turns: list[dict], images: int, videos: int, row_id: str, column: str
) -> tuple[dict, ...]:
    """The chat with all its media. Placeholders (<image>, <video>) mark the places of media; media
    that no message names come first in the first message of the user.

    Raises InputError for a chat that does not end with the user, or names other media than the row
    has.
    """
    if not turns or turns[-1]["role"] != "user":
        raise InputError(
            f"row {row_id}: column {column!r} is a chat that does not end with the user: drop what "
            "follows"
        )
    named = [part["type"] for turn in turns for part in turn["content"] if part["type"] != "text"]
    media = ["image"] * images + ["video"] * videos
    if not named:
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = [*({"type": kind} for kind in media), *first["content"]]
    elif sorted(named) != media:
        raise InputError(
            f"row {row_id}: column {column!r} names {short(named)}, the row has "
            f"{media or 'no media'}: correct one of them"
        )
    return tuple(turns)


def turn(message, place: int, row_id: str, column: str) -> dict:
    """One message, {role, content} or {from, value}, its content a list of parts with no keys but
    those that are read: Arrow gives every part all keys that any part of the column has. Raises InputError.
    """
    where = f"row {row_id}: message {place} of column {column!r}"
    fields = message if isinstance(message, dict) else {}
    role = fields.get("role") if fields.get("role") is not None else fields.get("from")
    if not isinstance(role, str) or role not in ROLES:
        raise InputError(
            f"{where} is {short(repr(message))}: give it a role (system, user or assistant) and a "
            "content"
        )
    content = fields.get("content") if fields.get("content") is not None else fields.get("value")
    parts = (
        [{"type": "text", "text": content or ""}] if isinstance(content, str | None) else content
    )
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and part.get("type") in PARTS for part in parts
    ):
        raise InputError(
            f"{where} holds {short(repr(content))}: give it a text, or parts of type "
            f"{', '.join(PARTS)}"
        )
    check_keys(fields, MESSAGE, where, "give it in parts of the content, or in a column of the row")
    check_texts([part for part in parts if part["type"] == "text"], where)
    plain: list[dict] = []
    for part in parts:
        if part["type"] != "text":
            plain.append(media_part(part, where))
        elif ROLES[role] == "assistant":
            plain.append({"type": "text", "text": part["text"]})
        else:
            plain += placed_numbers(placed(part["text"]))
    return {"role": ROLES[role], "content": plain}


def check_texts(parts: list[dict], where: str) -> None:
    """Raises InputError for a part of type text that has none, or has media, too."""
    for part in parts:
        if not isinstance(part.get("text"), str):
            raise InputError(f"{where} has a part of type text without its text")
        if media := [key for key in own_files(part) if key in KINDS]:
            raise InputError(
                f"{where} has a part of type text with {media[0]}: give it a part of its own"
            )
        check_keys(
            part, ("type", "text"), f"{where}: a part of type text", "give it a part of its own"
        )


def placed(text: str) -> list[dict]:
    """A text as parts, its placeholders as media. The line breaks around one go with it."""
    # The split puts the kinds of the placeholders between the texts.
    pieces = PLACEHOLDER.split(text)
    if len(pieces) == 1:
        return [{"type": "text", "text": text}]
    parts = [
        {"type": piece} if number % 2 else {"type": "text", "text": piece}
        for number, piece in enumerate(pieces)
    ]
    return [part for part in parts if part["type"] != "text" or part["text"]]


def has_placeholder(text: str) -> bool:
    return PLACEHOLDER.search(text) is not None


def text_of(message: dict) -> str:
    """The texts of a message, one per line."""
    return "\n".join(part["text"] for part in message["content"] if part["type"] == "text")
