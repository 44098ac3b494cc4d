"""Which question has which number in a run: a function of the seed, so that a resumed run asks what it would have asked."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from zipr1.data.example import Example
from zipr1.data.processor import limit_pixels, prepare
from zipr1.data.rows import Rows, open_rows, order
from zipr1.models.families import is_vision
from zipr1.rewards.graders import GRADERS, grade
from zipr1.tasks import ALL_TASKS, examples_of
from zipr1.training.config import TrainConfig

OTHER = "other"  # kind of a question whose problem type only the user's reward function knows
READERS = 4  # threads that decode media while the model computes


class TooLong(ValueError):
    """A prompt that leaves no room for its completion, or is longer than the run allows."""

    def __init__(self, message: str, tokens: int):
        super().__init__(message)
        self.tokens = tokens


def kind(example: Example) -> str:
    """Among which questions accuracy is compared: its task, or of a row its problem type."""
    return example.task or (example.problem_type if example.problem_type in GRADERS else OTHER)


def kinds_of(config: TrainConfig) -> tuple[str, ...]:
    """What `kind` can be in a run, in an order that all its processes share."""
    return (*GRADERS, OTHER) if config.data else tuple(config.tasks)


@dataclass
class Questions:
    """The embedded tasks, or the rows of a data set. The processor's pixel limits become those of the run."""

    config: TrainConfig
    processor: object
    longest: int  # tokens of a prompt
    failed: list[str] = field(
        default_factory=list
    )  # rows that could not be used, and why; the caller clears it

    def __post_init__(self):
        limit_pixels(self.processor, self.config.max_pixels, self.config.video_max_pixels)
        self.rows = (
            open_part(self.config.data, self.config, self.processor) if self.config.data else None
        )
        self.coming: dict[int, Future] = {}  # number of a question -> its row, which a thread reads
        self.readers = ThreadPoolExecutor(READERS)

    def read(self, numbers: Sequence[int], step: int) -> tuple[list[int], list[Example], list]:
        """Of the questions number `numbers` those that can be used: their numbers, they, and each as the processor's tensors.

        A row whose media cannot be read, that is malformed or too long, is left out and named in `failed`.
        """
        usable = []
        self.begin(numbers)
        for number in numbers:
            try:
                example = self.example(number, step)
                part = checked(example, self.processor, self.config, self.longest)
            except ValueError as error:  # MediaError is one
                if not self.config.data:
                    raise
                self.failed.append(str(error))
            else:
                usable.append((number, example, part))
        if step + 1 < self.config.max_steps:
            self.begin(number + self.config.prompts_per_step for number in numbers)
        return tuple(map(list, zip(*usable, strict=True))) if usable else ([], [], [])

    def begin(self, numbers: Iterable[int]) -> None:
        """Lets threads read rows that are asked for next. What a row holds is a function of its number, whenever it is read."""
        if self.rows is not None:
            for number in [number for number in numbers if number not in self.coming]:
                row = order(self.rows, self.config.seed)(number)
                self.coming[number] = self.readers.submit(self.rows.example, row)

    def example(self, number: int, step: int) -> Example:
        """A step on the embedded tasks is all pictures or all clips, each as often as its share of the tasks: a clip's prompt
        is twice as long, and padding the pictures to it would cost half the time. Tasks take turns within their kind."""
        if self.rows is not None:
            self.begin([number])
            return self.coming.pop(number).result()
        names = self.config.tasks
        kinds = [ALL_TASKS[name].video for name in names]
        clip = sorted(kinds)[step % len(kinds)]
        names = [name for name, kind in zip(names, kinds, strict=True) if kind == clip]
        turn, place = divmod(
            number, len(names)
        )  # each task counts its own: of some, every second one ends a pair
        # Pretraining has seen the first scenes of the train split; these are others.
        return ALL_TASKS[names[place]].example(
            "train", 5_000_000 + self.config.seed * 1_000_000 + turn
        )


def check_answer(example: Example, config: TrainConfig) -> None:
    """Raises ValueError, which names the row, where no completion could be right: the grader does not know its problem type, or
    refuses its own answer."""
    graded = config.completions == "sampled" and not config.reward_function
    if graded and example.problem_type and grade(example, example.answer) != 1:
        raise ValueError(
            f"row {example.id}: its own answer {example.answer!r} is not right as {example.problem_type}: mend one of them"
        )


def checked(example: Example, processor, config: TrainConfig, longest: int):
    """The processor's tensors of one question. Raises TooLong for more than `longest` tokens, ValueError for a question without
    a right answer (`check_answer`) or that the processor refuses; all name the row."""
    check_answer(example, config)
    try:
        part = prepare(processor, [example], raw=not config.chat_template)
    except ValueError as error:
        raise ValueError(f"row {example.id}: {error}") from error
    length = part["input_ids"].shape[1]
    if length > longest:
        raise TooLong(f"row {example.id}: a prompt of {length} tokens, above {longest}", length)
    return part


def probe_questions(config: TrainConfig, processor, longest: int) -> list[Example]:
    """The probe set: of each embedded task's validation split, or the first rows of the probe data. Raises ValueError
    (MediaError, TooLong) for a row that could not be trained on."""
    if not config.data:
        return examples_of(config.tasks, "val", config.probe_per_task)
    rows = open_part(config.probe_data, config, processor)
    examples = [rows.example(i) for i in range(min(config.probe_per_task, len(rows)))]
    for example in examples:
        checked(example, processor, config, longest)
    return examples


def open_part(data: str, config: TrainConfig, processor) -> Rows:
    clips = getattr(processor, "video_processor", None)  # a text model has none
    frames = min(config.max_frames, clips.max_frames) if clips else config.max_frames
    return open_rows(data, config.media_root, frames, config.think)


def check_prompts(model, config: TrainConfig) -> None:
    """Raises ValueError for prompts that the model cannot be given."""
    vision = is_vision(model.config)
    if not vision and not config.data:
        raise ValueError(
            f"{config.model}: a text model sees no pictures; name its rows with data and probe_data"
        )
    if vision and not config.chat_template:
        raise ValueError(
            "chat_template=false: a Qwen-VL model has its pictures in the template; leave it true"
        )


def longest_prompt(model, config: TrainConfig) -> int:
    """Tokens of a prompt that leave room for the completion."""
    left = model.config.get_text_config().max_position_embeddings - config.max_completion_length
    return min(left, config.max_prompt_length or left)
