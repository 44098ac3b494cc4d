"""The settings of `zipr1 demo` and `zipr1 pretrain`."""

from dataclasses import dataclass, field

from zipr1.common.checks import check_ranges, plain_values
from zipr1.common.errors import InputError
from zipr1.evaluation.config import thresholds_of
from zipr1.tasks.names import TASK_NAMES, check_tasks


@dataclass
class DemoConfig:
    """`zipr1 demo`: measures the embedded model, post-trains it with ZipR1, and measures again."""

    recipe: str = "tiny_demo"
    """Recipe of both trainings; each adds its preset, and `paper` halves the learning rate."""
    output_dir: str = "runs/demo"
    """Folder of tables, figures, records and both trainings."""
    questions: int = 120
    """Number of test questions of each task for the table."""
    curve_questions: int = 30
    """Number of questions of each task for each point of the curve."""
    curve: str = "0.8,0.9,0.95,0.975"
    """Top-p thresholds of the curve."""
    json: bool = False
    """Print the rows of the table as JSON."""
    max_steps: int | None = None
    """Number of steps of each training; unset, the recipe's."""

    def __post_init__(self):
        plain_values(self)
        check_ranges(self, {"[1, inf)": "questions curve_questions max_steps"})
        if not self.thresholds:
            raise InputError(f"curve={self.curve!r}: give at least one threshold, as 0.9,0.975")

    @property
    def thresholds(self) -> list[float]:
        """The thresholds of the curve. Raises InputError, which names the option."""
        return thresholds_of(self.curve)


@dataclass
class Stage:
    """A part of a pretraining with its own optimizers and schedule: warm-up, constant, linear decay
    to zero."""

    steps: int
    """Number of steps."""
    learning_rate: float
    """Learning rate of Muon, for the matrices of the blocks."""
    adam_learning_rate: float
    """Learning rate of AdamW, for embeddings, norms, biases and heads."""
    warmup_steps: int
    """Number of steps of the warm-up."""
    decay_share: float
    """Fraction of the steps, at the end, in which the learning rate decays."""
    vision_steps: int = 0
    """Number of steps, at the start, that train the vision tower alone, by the auxiliary loss, on
    twice the scenes."""

    def __post_init__(self):
        check_ranges(
            self,
            {
                "[1, inf)": "steps warmup_steps",
                "(0, inf)": "learning_rate adam_learning_rate",
                "[0, 1]": "decay_share",
                "[0, inf)": "vision_steps",
            },
        )


@dataclass
class PretrainConfig:
    """`zipr1 pretrain`: trains the embedded model, from random weights or from a checkpoint."""

    stages: list[Stage]
    """Stages of the training, one after the other; in a recipe."""
    pictures_per_task: int = 3
    """Number of scenes of each image task in one step."""
    clips_per_task: int = 2
    """Number of scenes of each video task in one step."""
    questions_per_scene: int = 8
    """Number of questions about a scene in one sequence, none of which attends to another."""
    weight_decay: float = 0.01
    """Weight decay of both optimizers."""
    eval_every: int = 100
    """Number of steps between validations."""
    eval_questions: int = 60
    """Number of validation questions of each task."""
    start: str | None = None
    """Model of zipr1/tiny's architecture to start from; unset, random weights."""
    hidden_size: int = 128
    """Hidden size of the text decoder, a multiple of 64."""
    layers: int = 5
    """Number of layers of the text decoder."""
    seed: int = 0
    """Seed of every random number."""
    threads: int = 2
    """Number of CPU threads."""
    output_dir: str = "runs/pretrain"
    """Folder of the checkpoint and of the log."""
    tasks: list[str] = field(default_factory=lambda: list(TASK_NAMES))
    """Embedded tasks to train on."""

    def __post_init__(self):
        plain_values(self)
        counts = "questions_per_scene eval_every eval_questions hidden_size layers"
        scenes = "pictures_per_task clips_per_task"
        check_ranges(self, {"[1, inf)": f"{counts} {scenes}", "[0, inf)": "weight_decay seed"})
        check_ranges(self, {"[1, 1024]": "threads"})
        if self.hidden_size % 64:
            raise InputError(
                f"hidden_size={self.hidden_size}: must be a multiple of 64, of two heads of 32"
            )
        check_tasks(self.tasks)
