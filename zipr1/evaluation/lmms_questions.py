"""The questions of a run of lmms-eval, and what their answers depend on."""

from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from lmms_eval.api.instance import Instance
from lmms_eval.protocol import ChatMessage
from PIL import Image

from zipr1.evaluation.lmms_answers import Key
from zipr1.evaluation.lmms_media import media_of
from zipr1.evaluation.lmms_settings import generation_settings


class Question(NamedTuple):
    """A request of lmms-eval; `repeat` numbers those about the same document of a task."""

    messages_of: Callable
    settings: dict  # as generate() takes them
    doc: int
    task: str
    split: str
    repeat: int

    @property
    def key(self) -> Key:
        return self.task, self.doc, self.repeat


def questions_of(requests: list[Instance]) -> list[Question]:
    """Raises InputError, before the first answer, for generation settings that are not used."""
    asked: Counter[tuple] = Counter()
    questions = []
    for request in requests:
        _, messages_of, given, doc, task, split = request.args
        settings = generation_settings(given, task)
        questions.append(Question(messages_of, settings, doc, task, split, asked[task, doc]))
        asked[task, doc] += 1
    return questions


def request_of(messages: list[ChatMessage], settings: dict, seed: int) -> str:
    """Hash of what an answer depends on: the chat, its media, the generation settings and, if they
    sample, the seed."""
    chat = [
        (message.role, [part_of(content) for content in message.content]) for message in messages
    ]
    drawn_by = seed if settings["do_sample"] else None
    parts = chat, media_of(messages), sorted(settings.items()), drawn_by
    return sha256(repr(parts).encode()).hexdigest()[:16]


def part_of(content) -> tuple:
    """What stands for a text, an image or a file, besides what `media_of` says."""
    if content.type == "text":
        return "text", content.text
    if isinstance(content.url, Image.Image):
        return (content.type,)
    file = Path(content.url).stat()
    return content.type, file.st_size, file.st_mtime_ns
