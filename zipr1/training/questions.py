"""Which question has which number in a run: a function of the seed, so that a resumed run asks the
questions that an unbroken one would have asked."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from zipr1.common.errors import InputError
from zipr1.data.example import Example
from zipr1.data.processor import frame_size, limit_pixels, prepare
from zipr1.data.rows import Rows, open_rows, order
from zipr1.data.special_tokens import check_special_tokens
from zipr1.models.families import is_vision
from zipr1.rewards.graders import GRADERS, grade
from zipr1.tasks import ALL_TASKS, examples_of
from zipr1.training.config import TrainConfig

OTHER = "other"  # task group of problem types that only the user's reward function knows
READERS = 4  # threads that decode media while the model computes


class TooLong(InputError):
    """A prompt that leaves no room for its completion, or is longer than the run allows."""

    def __init__(self, message: str, tokens: int):
        super().__init__(message)
        self.tokens = tokens


class Batch(NamedTuple):
    """Questions of a mini-batch: their numbers in the run, they, and the processor's tensors."""

    numbers: list[int]
    examples: list[Example]
    inputs: list


def task_group(example: Example) -> str:
    """The group of questions whose accuracies are compared: its task, or its row's problem type."""
    return example.task or (example.problem_type if example.problem_type in GRADERS else OTHER)


def task_groups(config: TrainConfig) -> tuple[str, ...]:
    """The values of `task_group` in a run, in an order that all its processes share."""
    return (*GRADERS, OTHER) if config.data else tuple(config.tasks)


@dataclass
class Questions:
    """The embedded tasks, or the rows of a data set. The processor's pixel limits become those of
    the run."""

    config: TrainConfig
    processor: object
    longest: int  # tokens of a prompt
    failed: list[str] = field(default_factory=list)  # why rows were not usable; the caller clears

    def __post_init__(self):
        config = self.config
        limit_pixels(self.processor, config.max_pixels, config.video_max_pixels)
        self.rows = open_part(config.data, config, self.processor) if config.data else None
        self.coming: dict[int, Future] = {}  # number of a question -> its row, read by a thread
        self.readers = ThreadPoolExecutor(READERS)

    def read(self, numbers: Sequence[int], step: int) -> Batch:
        """The usable ones among the questions number `numbers`.

        A row whose media cannot be read, that is malformed or too long, is left out and named in
        `failed`.
        """
        usable = Batch([], [], [])
        self.prefetch(numbers)
        for number in numbers:
            try:
                example = self.example(number, step)
                inputs = checked(example, self.processor, self.config, self.longest)
            except ValueError as error:  # MediaError and InputError are ValueErrors
                if not self.config.data:
                    raise
                self.failed.append(str(error))
            else:
                for part, value in zip(usable, (number, example, inputs), strict=True):
                    part.append(value)
        if step + 1 < self.config.max_steps:
            self.prefetch(number + self.config.prompts_per_step for number in numbers)
        return usable

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Starts reading rows in threads. A row depends on its number alone, not on the time."""
        if self.rows is not None:
            for number in [number for number in numbers if number not in self.coming]:
                row = order(self.rows, self.config.seed)(number)
                self.coming[number] = self.readers.submit(self.rows.example, row)

    def example(self, number: int, step: int) -> Example:
        """The question with this number.

        A step on the embedded tasks is all images or all videos, each as often as its fraction of
        the tasks: a video's prompt is twice as long, and padding images to it would cost half the
        time. Tasks of one medium alternate.
        """
        if self.rows is not None:
            self.prefetch([number])
            return self.coming.pop(number).result()
        names = self.config.tasks
        media = [ALL_TASKS[name].video for name in names]
        video = sorted(media)[step % len(media)]
        names = [name for name, medium in zip(names, media, strict=True) if medium == video]
        # Each task counts its own questions: of some, every second one ends a pair.
        turn, place = divmod(number, len(names))
        # Pretraining has seen the first scenes of the train split; these are others.
        index = 5_000_000 + self.config.seed * 1_000_000 + turn
        return ALL_TASKS[names[place]].example("train", index)


def check_answer(example: Example, config: TrainConfig) -> None:
    """Raises InputError, naming the row, where no completion could be correct: the grader does not
    know its problem type, or rejects its own answer."""
    graded = config.completions == "sampled" and not config.reward_function
    if graded and example.problem_type and grade(example, example.answer) != 1:
        raise InputError(
            f"row {example.id}: its own answer {example.answer!r} is not right as "
            f"{example.problem_type}: correct one of them"
        )


def checked(example: Example, processor, config: TrainConfig, longest: int):
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


def probe_questions(config: TrainConfig, processor, longest: int) -> list[Example]:
    """The probe set: of each embedded task's validation split, or the first rows of the probe data.
    Raises ValueError (MediaError, TooLong) for a row that could not be trained on."""
    if not config.data:
        return examples_of(config.tasks, "val", config.probe_per_task)
    rows = open_part(config.probe_data, config, processor)
    examples = [rows.example(i) for i in range(min(config.probe_per_task, len(rows)))]
    for example in examples:
        checked(example, processor, config, longest)
    return examples


def open_part(data: str, config: TrainConfig, processor) -> Rows:
    """The rows of `data` or `probe_data`, read as the run's settings say."""
    videos = getattr(processor, "video_processor", None)  # a text model has none
    frames = min(config.max_frames, getattr(videos, "max_frames", config.max_frames))
    return open_rows(data, config.media_root, frames, config.think, frame_size(processor))


def check_prompts(model, config: TrainConfig) -> None:
    """Raises InputError for prompts that the model cannot be given."""
    vision = is_vision(model.config)
    if not vision and not config.data:
        raise InputError(
            f"{config.model}: a text model takes no images; name its rows with data and probe_data"
        )
    if vision and not config.chat_template:
        raise InputError(
            "chat_template=false: a vision model has its images in the template; leave it true"
        )


def longest_prompt(model, config: TrainConfig) -> int:
    """The number of prompt tokens that leave room for the completion."""
    left = model.config.get_text_config().max_position_embeddings - config.max_completion_length
    return min(left, config.max_prompt_length or left)
