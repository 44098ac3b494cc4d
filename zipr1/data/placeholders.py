"""Placeholders in the texts of rows, other than <image> and <video>: numbered ones as MMMU's
<image 1>, and those of other programs, which would reach the model as text."""

import re
from collections.abc import Iterable

from zipr1.common.errors import InputError
from zipr1.data.source import short

PLACEHOLDER = re.compile(r"\n?<(image|video)>\n?")
# MMMU's <image 1>, <image_1>, Phi's <|image_1|>
NUMBERED = re.compile(r"\n?(<\|?(?:image|img|picture|video)[ _:=#-]*\d{1,4}\|?>)\n?", re.IGNORECASE)
FOREIGN = re.compile(
    r"<\|(?:image|video)\|>|<(?:image|video)_?(?:placeholder|here)>|</(?:image|video)>"
    r"|<img>[^<>\n]+</img>|<(?:image|video)>|<audio>",
    re.IGNORECASE,
)


def placed_numbers(parts: list[dict]) -> list[dict]:
    """Numbered placeholders in the texts of `parts` as media with an index, which `check_numbers`
    checks. The line breaks around one go with it."""
    placed = []
    for part in parts:
        pieces = NUMBERED.split(part["text"]) if part["type"] == "text" else [""]
        if len(pieces) == 1:
            placed.append(part)
            continue
        for number, piece in enumerate(pieces):
            if number % 2:
                kind = "video" if "video" in piece.lower() else "image"
                index = int(re.sub(r"\D", "", piece)) - 1
                placed.append({"type": kind, "index": index, "placeholder": piece})
            elif piece:
                placed.append({"type": "text", "text": piece})
    return placed


def has_number(text: str) -> bool:
    """Whether it has a numbered placeholder."""
    return NUMBERED.search(text) is not None


def check_numbers(turns: list[dict], counts: dict[str, int], row_id: str) -> None:
    """Takes the marks of numbered placeholders out of the parts of a chat; their indices remain.

    Raises InputError unless they name each of the row's images (`counts` by kind), or its video,
    once, and nothing else names one.
    """
    parts = [part for turn in turns for part in turn["content"] if part["type"] != "text"]
    for kind, count in counts.items():
        places = [part.pop("placeholder", None) for part in parts if part["type"] == kind]
        given = [place for place in places if place]
        if not given:
            continue
        where = f"row {row_id}: the prompt has {given[0]!r}"
        if len(given) < len(places):
            raise InputError(
                f"{where} beside {kind}s that are named without a number: number all of them, or "
                "write it without the brackets"
            )
        if not any(counts.values()):
            raise InputError(
                f"{where}, the row no media: give it as column '{kind}s', or remove it from the "
                "prompt"
            )
        indices = [part["index"] for part in parts if part["type"] == kind]
        if sorted(indices) != list(range(count)):
            wanted = f"each of <{kind} 1> to <{kind} {count}> once" if count else f"no {kind}"
            wanted = f"<{kind} 1> once" if count == 1 else wanted
            raise InputError(
                f"row {row_id}: the prompt has {short(', '.join(given))}, the row has {count} "
                f"{kind}{'s' * (count != 1)}: name {wanted}; in a further mention, leave out the "
                "brackets"
            )


def check_foreign(texts: Iterable[str], where: str, media: bool = True) -> None:
    """Raises InputError for a placeholder that another program would replace, in a prompt with
    `media`; without, for <audio> only, because the others may be code. `where`: begins the
    message."""
    for text in texts:
        for found in FOREIGN.finditer(text):
            audio = found[0].lower() == "<audio>"
            if not media and not audio:
                continue
            fix = "audio is not read" if audio else "write <image> or <video> at its place"
            what = "" if media else ", the row no media"
            raise InputError(
                f"{where} has {short(found[0])!r}{what}: {fix}, or remove it (a space inside makes "
                "it text)"
            )
