"""Which question has which number in a run: a function of the seed, so that a resumed run asks the
questions that an unbroken one would have asked."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from zipr1.common.errors import InputError
from zipr1.data.example import Example
from zipr1.data.processor import limit_pixels
from zipr1.data.rows import open_rows, order
from zipr1.evaluation.usable_rows import OTHER, checked, open_part
from zipr1.models.families import is_vision
from zipr1.rewards.graders import GRADERS
from zipr1.tasks import ALL_TASKS, examples_of
from zipr1.training.config import TrainConfig

READERS = 4  # threads that decode media while the model computes


class Batch(NamedTuple):
    """Questions of a mini-batch: their numbers in the run, they, and the processor's tensors."""

    numbers: list[int]
    examples: list[Example]
    inputs: list


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
    dataset: object = None  # a datasets.Dataset that is read in place of config.data

    def __post_init__(self):
        config = self.config
        limit_pixels(self.processor, config.max_pixels, config.video_max_pixels)
        data = config.data if self.dataset is None else self.dataset
        self.rows = open_part(data, config, self.processor) if config.data else None
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


def probe_questions(config: TrainConfig, processor, longest: int, dataset=None) -> list[Example]:
    """The probe set: of each embedded task's validation split, or the first rows of the probe data,
    or of `dataset`, which is read in place of it.
    Raises ValueError (MediaError, TooLong) for a row that could not be trained on."""
    if not config.data:
        return examples_of(config.tasks, "val", config.probe_per_task)
    rows = open_part(config.probe_data if dataset is None else dataset, config, processor)
    examples = [rows.example(i) for i in range(min(config.probe_per_task, len(rows)))]
    for example in examples:
        checked(example, processor, config, longest)
    return examples


def check_rows(config: TrainConfig, train_dataset=None, eval_dataset=None) -> None:
    """Raises InputError or MediaError for data that cannot be opened, and for a first probe row that
    cannot be read (a wrong media root, say): before a model is loaded, which may take minutes."""
    if not config.data:
        return
    settings = config.media_root, config.max_frames, config.think, None, config.columns
    open_rows(config.data if train_dataset is None else train_dataset, *settings)
    open_rows(config.probe_data if eval_dataset is None else eval_dataset, *settings).example(0)


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
