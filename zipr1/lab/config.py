"""The settings of `zipr1 demo` and `zipr1 pretrain`."""

from dataclasses import dataclass, field

from zipr1.common.checks import check_positive
from zipr1.tasks.names import TASK_NAMES, check_tasks


@dataclass
class DemoConfig:
    """`zipr1 demo`: measures the embedded model, post-trains it with ZipR1, and measures it again."""

    recipe: str = "tiny_demo"
    """Settings of both trainings; the presets are added, and `paper` takes half the learning rate."""
    output_dir: str = "runs/demo"
    """Where everything goes."""
    questions: int = 120
    """Per task, of the test split, for the table."""
    curve_questions: int = 30
    """Per task, for each point of the curve."""
    curve: str = "0.8,0.9,0.95,0.975"
    """Thresholds of the curve."""
    json: bool = False
    """Print the rows of the table as JSON."""
    max_steps: int | None = None
    """Of each training; unset, the recipe's."""

    def __post_init__(self):
        check_positive(self, "questions", "curve_questions", "max_steps")


@dataclass
class Stage:
    """A run with its own optimisers and schedule: warm-up, constant, linear decay to zero."""

    steps: int
    learning_rate: float  # of Muon, for the matrices of the blocks
    adam_learning_rate: float  # of AdamW, for embeddings, norms, biases and heads
    warmup_steps: int
    decay_share: float  # of the steps, at the end
    vision_steps: int = 0  # of the steps, the first: the vision tower alone, by the helper loss, on twice the scenes


@dataclass
class PretrainConfig:
    """`zipr1 pretrain`: trains the embedded model, from scratch or on."""

    stages: list[Stage]
    """One after the other; in a recipe."""
    pictures_per_task: int = 3
    """Scenes of each picture task in one step."""
    clips_per_task: int = 2
    """Scenes of each clip task in one step."""
    questions_per_scene: int = 8
    """Questions of a scene in one sequence, each blind to the others."""
    weight_decay: float = 0.01
    """Of AdamW."""
    eval_every: int = 100
    """Steps between measurements."""
    eval_questions: int = 60
    """Of the validation split, per task."""
    start: str | None = None
    """A model to go on from, of zipr1/tiny's kind; unset, random weights of the next two."""
    hidden_size: int = 128
    """Of the text decoder, a multiple of 64."""
    layers: int = 5
    """Of the text decoder."""
    seed: int = 0
    """Of every random number."""
    threads: int = 2
    """CPU threads."""
    output_dir: str = "runs/pretrain"
    """Where everything goes."""
    tasks: list[str] = field(default_factory=lambda: list(TASK_NAMES))
    """Which of the embedded ones."""

    def __post_init__(self):
        check_positive(
            self,
            "questions_per_scene",
            "eval_every",
            "eval_questions",
            "threads",
            "hidden_size",
            "layers",
        )
        if self.hidden_size % 64:
            raise ValueError(
                f"hidden_size={self.hidden_size}: must be a multiple of 64, of two heads of 32"
            )
        check_tasks(self.tasks)
        for stage in self.stages:
            check_positive(stage, "steps", "learning_rate", "adam_learning_rate", "warmup_steps")
