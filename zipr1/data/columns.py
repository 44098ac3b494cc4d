"""Any data set with the columns prompt, image or images or video, and answer (or solution, or
completion); answer as it stands and all others go to Example.columns.

    {"prompt": "What is this?", "image": "cat.png", "answer": "a cat", "level": 3}

The prompt is a text or a chat, a list of messages. `problem_type` says how the answer is graded (zipr1.graders); "exact"
without it.
"""

from pathlib import Path

from zipr1.data.example import Example, final
from zipr1.data.row import Row, medium, text

MEDIA = ("image", "images", "video")
PARTS = ("text", "image", "video")  # of a message


def general(row: dict, number: int, root: Path) -> Row:
    """A row by its columns; paths of media lie below `root`. Raises ValueError."""
    row_id = str(number if row.get("id") is None else row["id"])
    if row.get("image") is not None and row.get("images"):
        raise ValueError(
            f"row {row_id}: columns 'image' and 'images' both hold pictures: leave one empty"
        )
    name = "image" if row.get("image") is not None else "images"
    pictures = (
        row.get(name)
        if isinstance(row.get(name), list)
        else [row[name]]
        if row.get(name) is not None
        else []
    )
    images = tuple(medium(value, root, name, row_id) for value in pictures)
    video = None if row.get("video") is None else medium(row["video"], root, "video", row_id)
    name = next(
        (name for name in ("answer", "completion", "solution") if row.get(name) is not None),
        "answer",
    )
    answer = text(row, name, row_id)
    answer = (
        answer if name == "completion" else final(answer)
    )  # a completion is taken to the letter
    if not answer:
        raise ValueError(
            f"row {row_id}: column {name!r} is {row[name]!r}: put an answer between <answer> and </answer>"
        )
    messages: tuple[dict, ...] = ()
    if isinstance(row.get("prompt"), list):
        messages = chat(row["prompt"], len(images), video is not None, row_id)
        question = "\n".join(
            part["text"] for part in messages[-1]["content"] if part["type"] == "text"
        )
    else:
        question = text(row, "prompt", row_id)
    used = {"completion", "problem_type", *MEDIA}
    if (
        not messages or images or video
    ):  # a chat of text alone reaches users' reward functions as it stands
        used.add("prompt")
    columns = {name: value for name, value in row.items() if name not in used}
    kind = "exact" if row.get("problem_type") in (None, "") else text(row, "problem_type", row_id)
    return Row(
        Example(
            row_id, "", question, answer, messages=messages, problem_type=kind, columns=columns
        ),
        images,
        video,
    )


def chat(messages: list, images: int, video: bool, row_id: str) -> tuple[dict, ...]:
    """Messages whose contents are lists of parts; media that no message names come first in the first one of the user.

    Raises ValueError for what is no chat, does not end with the user, or names other media than the row has.
    """
    turns = [turn(message, place, row_id) for place, message in enumerate(messages)]
    if not turns or turns[-1]["role"] != "user":
        raise ValueError(
            f"row {row_id}: column 'prompt' is a chat that does not end with the user: drop what follows"
        )
    named = [part["type"] for turn in turns for part in turn["content"] if part["type"] != "text"]
    media = ["image"] * images + ["video"] * video
    if not named:
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = [*({"type": kind} for kind in media), *first["content"]]
    elif sorted(named) != media:
        raise ValueError(
            f"row {row_id}: column 'prompt' names {named or 'no media'}, the row has {media or 'none'}: mend one"
        )
    return tuple(turns)


def turn(message, place: int, row_id: str) -> dict:
    """One message, its content a list of parts with no keys but their own: Arrow gives every part all keys that any part of the
    column has. Raises ValueError."""
    where = f"row {row_id}: message {place} of column 'prompt'"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ValueError(
            f"{where} is {message!r:.200}: give it a role (system, user or assistant) and a content"
        )
    content = message.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and part.get("type") in PARTS for part in parts
    ):
        raise ValueError(
            f"{where} holds {content!r:.200}: give it a text, or parts of type {', '.join(PARTS)}"
        )
    if any(part["type"] == "text" and not isinstance(part.get("text"), str) for part in parts):
        raise ValueError(f"{where} has a part of type text without its text")
    parts = [
        {"type": "text", "text": part["text"]} if part["type"] == "text" else {"type": part["type"]}
        for part in parts
    ]
    return {"role": message["role"], "content": parts}
