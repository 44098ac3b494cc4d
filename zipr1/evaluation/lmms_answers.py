"""Answers inside lmms-eval, written as they come: lmms-eval itself keeps them in memory until a
task is complete."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from lmms_eval.api.instance import GenerationResult, TokenCounts

from zipr1.common.documents import FINITE, parse_as, parse_json
from zipr1.common.errors import InputError
from zipr1.common.files import append, replace

Key = tuple[str, int, int]  # task, doc id, repeat


@dataclass
class Counts(TokenCounts):
    """lmms-eval's counts of a sample, with the token ratio of its prompt, as `medium` what it is
    about (`lmms_media.media_of`) and, in our file alone, its `lmms_questions.request_of`."""

    token_ratio: float | None = None
    medium: str = ""
    request: str = ""

    def to_dict(self) -> dict:
        return super().to_dict() | {"token_ratio": self.token_ratio, "medium": self.medium}


@dataclass(frozen=True)
class SavedAnswer:
    """One answer; the last five fields are those of its `Counts`."""

    __pydantic_config__ = FINITE

    task: str
    doc_id: int
    repeat: int
    text: str
    input_tokens: int
    output_tokens: int
    token_ratio: float
    medium: str
    request: str

    def result(self) -> GenerationResult:
        counts = Counts(self.input_tokens, self.output_tokens)
        counts.token_ratio, counts.medium = self.token_ratio, self.medium
        return GenerationResult(self.text, counts)


def saved(key: Key, result: GenerationResult) -> SavedAnswer:
    counts = result.token_counts
    lengths = counts.input_tokens, counts.output_tokens
    about = counts.token_ratio, counts.medium, counts.request
    return SavedAnswer(*key, result.text, *lengths, *about)


class AnswerFile:
    """A file of JSON lines: first what the answers depend on, then one answer a line.

    Raises InputError for a file with the answers of another model or other settings.
    """

    def __init__(self, path: Path, identity: dict):
        self.path = path
        self.answers: dict[Key, SavedAnswer] = {}
        self.is_told = False
        header = {"kind": "lmms_answers", "version": 1, "identity": identity}
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
        if lines:
            self.check(lines[0], identity)
        for line in lines[1:]:
            answer = parse_as(SavedAnswer, line)
            self.answers[answer.task, answer.doc_id, answer.repeat] = answer
        # What follows the last line feed was cut when the run was killed.
        path.parent.mkdir(parents=True, exist_ok=True)
        if lines:
            replace(path, "".join(f"{line}\n" for line in lines))
        else:
            replace(path, "")
            append(path, [header])

    def check(self, header: str, identity: dict) -> None:
        """Raises InputError unless the header is that of a file with this identity."""
        try:
            found = parse_json(header)["identity"]
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(f"{self.path}: not a file of answers; take it away") from error
        if other := [name for name in identity if found.get(name) != identity[name]]:
            raise InputError(
                f"{self.path}: holds answers of another {', '.join(other)}; give another file, or "
                "remove it"
            )

    def get(self, keys: list[Key]) -> list[SavedAnswer] | None:
        """The answers that an earlier run has left, if all are there."""
        found = [self.answers.get(key) for key in keys]
        return found if all(found) else None

    def tell_changed(self, answer: SavedAnswer) -> None:
        """Says once that answers are not used."""
        if not self.is_told:
            print(
                f"{self.path}: the prompt, media or generation settings have changed since the "
                f"answer to {answer.task}, question {answer.doc_id}; such questions are answered "
                "anew",
                file=sys.stderr,
            )
        self.is_told = True

    def add(self, answers: list[SavedAnswer]) -> None:
        append(self.path, [asdict(answer) for answer in answers])
