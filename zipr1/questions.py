"""Which question has which number in a run: a function of the seed, so that a resumed run asks what it would have asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zipr1.config import TrainConfig
from zipr1.data import Rows, open_rows, order
from zipr1.evaluate import examples_of
from zipr1.graders import GRADERS
from zipr1.inputs import prepare
from zipr1.tasks import ALL_TASKS
from zipr1.tasks.base import Example

OTHER = "other"  # kind of a question whose problem type only the user's reward function knows


def kind(example: Example) -> str:
    """Among which questions accuracy is compared: its task, or of a row its problem type."""
    return example.task or (example.problem_type if example.problem_type in GRADERS else OTHER)


def kinds_of(config: TrainConfig) -> tuple[str, ...]:
    """What `kind` can be in a run, in an order that all its processes share."""
    return (*GRADERS, OTHER) if config.data else tuple(config.tasks)


@dataclass
class Questions:
    """The embedded tasks, or the rows of a data set."""

    config: TrainConfig
    processor: object
    longest: int  # tokens of a prompt
    failed: list[str] = field(default_factory=list)  # rows of this process that could not be used, and why

    def __post_init__(self):
        self.rows = open_part(self.config.data, self.config, self.processor) if self.config.data else None

    def read(self, numbers: Sequence[int], step: int) -> tuple[list[int], list[Example], list]:
        """Of the questions number `numbers` those that can be used: their numbers, they, and each as the processor's tensors.

        A row whose media cannot be read, that is malformed or too long, is left out and named in `failed`.
        """
        usable = []
        for number in numbers:
            try:
                example = self.example(number, step)
                part = prepare(self.processor, [example], raw=not self.config.chat_template)
                self.check(example, part)
            except ValueError as error:  # MediaError is one
                if not self.config.data:
                    raise
                self.failed.append(str(error))
            else:
                usable.append((number, example, part))
        return tuple(map(list, zip(*usable, strict=True))) if usable else ([], [], [])

    def example(self, number: int, step: int) -> Example:
        """A step on the embedded tasks is all pictures or all clips, each as often as its share of the tasks: a clip's prompt
        is twice as long, and padding the pictures to it would cost half the time. Tasks take turns within their kind."""
        if self.rows is not None:
            return self.rows.example(order(self.rows, self.config.seed)(number))
        names = self.config.tasks
        kinds = [ALL_TASKS[name].clip for name in names]
        clip = sorted(kinds)[step % len(kinds)]
        names = [name for name, kind in zip(names, kinds, strict=True) if kind == clip]
        # Pretraining has seen the first scenes of the train split; these are others.
        return ALL_TASKS[names[number % len(names)]].example("train", 5_000_000 + self.config.seed * 1_000_000 + number)

    def check(self, example: Example, part) -> None:
        """Raises ValueError for a row that cannot be graded or is too long."""
        sampled = self.config.completions == "sampled" and not self.config.reward_function
        if sampled and example.problem_type and example.problem_type not in GRADERS:
            known = ", ".join(GRADERS)
            raise ValueError(f"row {example.id}: problem type {example.problem_type!r}: expected one of {known}")
        length = part["input_ids"].shape[1]
        if length > self.longest:
            raise ValueError(f"row {example.id}: a prompt of {length} tokens, above {self.longest}")

    def report(self, process: int, folder: Path) -> None:
        """Appends what failed since the last time to a file of this process."""
        if self.failed:
            with (folder / f"failed-rows-{process}.txt").open("a") as file:
                file.write("".join(reason + "\n" for reason in self.failed))
            self.failed.clear()


def probe_questions(config: TrainConfig, processor) -> list[Example]:
    """The probe set: of each embedded task's validation split, or the first rows of the probe data. Raises MediaError."""
    if not config.data:
        return examples_of(config.tasks, "val", config.probe_per_task)
    rows = open_part(config.probe_data, config, processor)
    return [rows.example(i) for i in range(min(config.probe_per_task, len(rows)))]


def open_part(data: str, config: TrainConfig, processor) -> Rows:
    clips = getattr(processor, "video_processor", None)  # a text model has none
    frames = min(config.max_frames, clips.max_frames) if clips else config.max_frames
    return open_rows(data, config.media_root, frames, config.think)
