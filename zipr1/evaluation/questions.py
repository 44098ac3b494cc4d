"""The questions of an evaluation: of the embedded tasks here, of rows in `row_questions`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from zipr1.common.errors import InputError
from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.evaluation.generation import (
    Answer,
    GenerationSettings,
    as_shortener,
    batches,
    media_counts,
    shortened,
)
from zipr1.evaluation.input_baselines import Shortener
from zipr1.rewards.graders import grade
from zipr1.sparsity.rules import Rule


@dataclass(frozen=True)
class Score:
    """Of one answer; reward: its grade or the value of a reward function, where there is one."""

    correct: bool
    reward: float | None = None


class Part(Protocol):
    """A question that may have to be read still."""

    id: str


class Questions(Protocol):
    """Questions in batches, read when they are due, and how their answers are scored."""

    def parts(self, rule: Rule | Shortener | None, method: str, size: int) -> list[Sequence[Part]]:
        """The questions that the rule can be applied to, in batches. Raises InputError where there
        are none."""

    def read(self, part: Sequence[Part], keep: bool = True) -> list[Example]:
        """The usable questions of a batch, whole; keep: whether to write why others are not."""

    def left_out(self) -> set[str]:
        """The ids of questions that turned out to be unusable."""

    def score(self, answers: list[Answer]) -> list[Score]:
        """The scores of the answers to a batch."""


@dataclass(frozen=True)
class Examples:
    """Questions that are in memory: those of the embedded tasks."""

    items: list[Example]

    def parts(self, rule, method: str, size: int) -> list[Sequence[Example]]:
        return list(batches(applicable(self.items, rule, method), size))

    def read(self, part: Sequence[Example], keep: bool = True) -> list[Example]:
        return list(part)

    def left_out(self) -> set[str]:
        return set()

    def score(self, answers: list[Answer]) -> list[Score]:
        return [Score(correct) for correct in score(answers)]


def score(answers: list[Answer]) -> list[bool]:
    """Which answers are correct, by the problem type of each question."""
    return [grade(answer.example, answer.text) == 1 for answer in answers]


def applicable(
    examples: list[Example], rule: Rule | Shortener | None, method: str
) -> list[Example]:
    """The examples that a rule can be applied to. Raises InputError where there are none."""
    shortener = as_shortener(rule)
    found = [one for one in examples if not shortener or shortener.takes(*media_counts(one))]
    if examples and not found:
        raise cannot_be_shortened(method)
    return found


def check_applicable(
    rules: dict[str, Rule | Shortener | None],
    questions: Questions,
    processor,
    settings: GenerationSettings,
) -> None:
    """Raises InputError, before anything is answered, for a method that cannot be applied to any
    question, or that needs visual tokens in rows and columns where the model has none."""
    for method, rule in rules.items():
        parts = questions.parts(rule, method, settings.batch_size)
        if shortener := as_shortener(rule):
            usable = next(
                filter(None, (questions.read(part[:1], keep=False) for part in parts)), None
            )
            if usable:
                inputs = prepare(processor, usable, raw=settings.raw)
                shortened(processor, usable, inputs, shortener)


def cannot_be_shortened(method: str) -> InputError:
    return InputError(f"{method}: no question can be shortened so; choose tasks that show videos")
