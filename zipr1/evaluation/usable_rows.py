"""Rows of a data set as training and `zipr1 eval --data` read them, and which of them are usable."""

from typing import Protocol

from zipr1.common.errors import InputError
from zipr1.data.example import Example
from zipr1.data.processor import frame_size, prepare
from zipr1.data.rows import Rows, open_rows
from zipr1.data.special_tokens import check_special_tokens
from zipr1.rewards.graders import GRADERS, grade

OTHER = "other"  # task group of problem types that only the user's reward function knows


class RowSettings(Protocol):
    """The settings of a training or an evaluation that decide how rows are read."""

    media_root: str | None
    columns: str | None
    max_frames: int
    think: bool
    chat_template: bool
    completions: str
    reward_function: object


class TooLong(InputError):
    """A prompt that leaves no room for its completion, or is longer than the run allows."""

    def __init__(self, message: str, tokens: int):
        super().__init__(message)
        self.tokens = tokens


def task_group(example: Example) -> str:
    """The group of questions whose accuracies are compared: its task, or its row's problem type."""
    return example.task or (example.problem_type if example.problem_type in GRADERS else OTHER)


def check_answer(example: Example, config: RowSettings) -> None:
    """Raises InputError, naming the row, where no completion could be correct: the grader does not
    know its problem type, or rejects its own answer."""
    graded = config.completions == "sampled" and not config.reward_function
    if graded and example.problem_type and grade(example, example.answer) != 1:
        raise InputError(
            f"row {example.id}: its own answer {example.answer!r} is not accepted as "
            f"{example.problem_type}: correct one of them"
        )


def checked(example: Example, processor, config: RowSettings, longest: int):
    """The processor's tensors of one question. Raises TooLong for more than `longest` tokens,
    InputError for a question without a correct answer (`check_answer`) or that the processor
    refuses; all name the row."""
    check_answer(example, config)
    try:
        if config.completions == "given" and config.chat_template:
            answer = {"role": "assistant", "content": [{"type": "text", "text": example.answer}]}
            check_special_tokens(processor, [answer])
        inputs = prepare(processor, [example], raw=not config.chat_template)
    except ValueError as error:
        raise InputError(f"row {example.id}: {error}") from error
    length = inputs["input_ids"].shape[1]
    if length > longest:
        raise TooLong(f"row {example.id}: a prompt of {length} tokens, above {longest}", length)
    return inputs


def open_part(data, config: RowSettings, processor) -> Rows:
    """The rows of a data set (a name or a datasets.Dataset), read as the settings say."""
    videos = getattr(processor, "video_processor", None)  # a text model has none
    frames = min(config.max_frames, getattr(videos, "max_frames", config.max_frames))
    return open_rows(
        data, config.media_root, frames, config.think, frame_size(processor), config.columns
    )
