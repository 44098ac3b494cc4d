"""Any data set with the columns prompt, image(s) or video, and answer (or solution, or completion);
all other columns go to Example.columns as they stand.

    {"prompt": "What is this?", "image": "cat.png", "answer": "a cat", "level": 3}

The prompt is a text or a chat, a list of messages; formats.py reads other shapes of chats.
`problem_type` says how the answer is graded (zipr1.rewards.graders), "exact" without it.
"""

from pathlib import Path

from zipr1.common.errors import InputError
from zipr1.data.chats import has_placeholder, placed_chat, text_of, turns_of
from zipr1.data.example import Example, final
from zipr1.data.formats import ANSWERS, WRITTEN_CHAT, unified
from zipr1.data.media_column import media_of_column
from zipr1.data.part_media import media_of_parts
from zipr1.data.placeholders import check_foreign, has_number
from zipr1.data.row import Row, name_of, text
from zipr1.data.source import MediaFile, short
from zipr1.data.unseen_media import check_unseen_media
from zipr1.data.unseen_text import CUT_COLUMNS, check_no_cut, check_unseen_text

MEDIA = ("image", "images", "video", "videos")
NO_MEDIA = (None, "", [])  # 0, False and b"" are errors
TEXTS = frozenset({"prompt", "id", *ANSWERS})  # which may end in the name of a media file


def general_row(row: dict, number: int, root: Path) -> Row:
    """A row by its columns; paths of media lie below `root`. Raises InputError."""
    row_id = name_of(row.get("id"), number)
    images = media(row, "image", "images", root, row_id)
    videos = media(row, "video", "videos", root, row_id)
    given = row
    row, column = unified(row, row_id)
    answer = expected(row, row_id)
    prompt = row.get("prompt")
    messages: tuple[dict, ...] = ()
    if not isinstance(prompt, list):
        question = text(row, "prompt", row_id)
        if WRITTEN_CHAT.match(question):
            raise InputError(
                f"row {row_id}: column 'prompt' is a chat that is written as a text, "
                f"{short(question)}: give a list of messages"
            )
        if has_placeholder(question) or has_number(question):
            prompt = [{"role": "user", "content": question}]
    if isinstance(prompt, list):
        turns = turns_of(prompt, row_id, column)
        media_of_row = {"image": images, "video": videos}
        images, videos = media_of_parts(turns, media_of_row, root, row_id, column)
        messages = placed_chat(turns, len(images), len(videos), row_id, column)
        question = text_of(messages[-1])
    if len(videos) > 1:
        raise InputError(
            f"row {row_id}: {len(videos)} videos: give one at most (frames: as 'images')"
        )
    used = {"completion", "problem_type", *MEDIA}
    # A chat of text alone reaches users' reward functions as it stands.
    if not messages or images or videos or column != "prompt":
        used.add("prompt")
    columns = {name: value for name, value in row.items() if name not in used}
    shown = (*images, *videos)
    check_foreign(texts_of(messages) or [question], f"row {row_id}: the prompt", bool(shown))
    said = [text_of(message) for message in messages] or [question]
    check_unseen_text(given, said, column, row_id)
    if shown:
        kind = "video" if videos else "image"
        check_no_cut(row, CUT_COLUMNS[kind], f"row {row_id}: its {kind}")
    others = {name: value for name, value in columns.items() if name not in TEXTS}
    check_unseen_media(others, shown, root, row_id)
    kind = "exact" if row.get("problem_type") in (None, "") else text(row, "problem_type", row_id)
    example = Example(
        row_id, "", question, answer, messages=messages, problem_type=kind, columns=columns
    )
    return Row(example, images, videos[0] if videos else None)


def media(row: dict, one: str, several: str, root: Path, row_id: str) -> tuple[MediaFile, ...]:
    """The files of the columns `one` and `several`, of which one may be used; each holds a value or
    a list of values. Raises InputError."""
    held = [name for name in (one, several) if row.get(name) not in NO_MEDIA]
    if len(held) > 1:
        raise InputError(
            f"row {row_id}: columns {one!r} and {several!r} both hold media: leave one empty"
        )
    if not held:
        return ()
    values = row[held[0]] if isinstance(row[held[0]], list) else [row[held[0]]]
    return tuple(media_of_column(value, root, held[0], row_id) for value in values)


def texts_of(messages: tuple[dict, ...]) -> list[str]:
    """What the system and the user say."""
    return [text_of(message) for message in messages if message["role"] != "assistant"]


def expected(row: dict, row_id: str) -> str:
    """The answer; a completion is taken to the letter. Raises InputError."""
    name = next((name for name in ANSWERS if row.get(name) is not None), "answer")
    answer = text(row, name, row_id)
    answer = answer if name == "completion" else final(answer)
    if not answer:
        raise InputError(
            f"row {row_id}: column {name!r} is {short(repr(row[name]))}: put an answer between "
            "<answer> and </answer>"
        )
    return answer
