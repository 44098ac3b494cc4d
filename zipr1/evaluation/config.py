"""The settings of `zipr1 eval`."""

import re
from dataclasses import dataclass, fields
from typing import Literal

from zipr1.common.checks import check_positive
from zipr1.tasks.names import FAMILY_NAMES, TASK_NAMES, check_tasks

MAX_NEW_TOKENS = 8


@dataclass
class EvalConfig:
    """`zipr1 eval`: measures a model under several methods, tasks by tasks."""

    model: str
    """Hub id, folder, or the embedded model."""
    methods: str = "full,zipvl"
    """Of full, zipvl, topk, random, recent, fastv, downsample and fewer_frames (of clips)."""
    tasks: str | None = None
    """Unset, the six of the demo; in the suite tiny13 its thirteen families."""
    split: Literal["val", "test"] = "test"
    """Of the tasks' questions."""
    questions: int = 200
    """Per task."""
    p: float | None = None
    """Threshold of zipvl: the fraction of the attention to keep; unset, as the model was trained
    (0.975 for a model that was not)."""
    ratio: float = 0.25
    """Of the other methods: the share of the tokens to keep (fastv: from its layer on; downsample and fewer_frames: of the
    visual ones). In the suite tiny13 it is what the last of --trained kept."""
    scope: Literal["attention", "layer"] | None = None
    """What follows the kept tokens (zipr1.sparse); unset, what the model was trained for."""
    curve: str | None = None
    """More thresholds, as 0.9,0.99: accuracy against token ratio. The suite tiny13 has its own where this is unset."""
    curve_questions: int = 20
    """Per task, for each point of the curves of the suite tiny13."""
    batch_size: int = 25
    """Questions of one pass."""
    suite: Literal["paper", "tiny13"] | None = None
    """paper: its thirteen benchmarks through lmms-eval. tiny13: thirteen embedded families, with baselines, curves and cost."""
    recipe: str = "eval_paper"
    """Of the suite paper: frames, pixel bounds, batch size."""
    trained: str | None = None
    """Of a suite: a model after post-training, for the row ZipR1; or several, as paper=FOLDER,exact=FOLDER."""
    output_dir: str = "runs/eval"
    """Where records, tables and figures go; a suite goes on there where it stopped."""
    threads: int = 2
    """CPU threads; in the suite tiny13 processes of one thread, each with its own copy of the model."""
    json: bool = False
    """Print the rows of the table as JSON."""

    def __post_init__(self):
        check_positive(self, "questions", "curve_questions", "batch_size", "threads")
        check_tasks(self.names)
        for field in fields(self):
            if (
                self.suite not in OWN.get(field.name, (self.suite,))
                and getattr(self, field.name) != field.default
            ):
                known = " or ".join(
                    "--suite " + suite if suite else "no suite" for suite in OWN[field.name]
                )
                raise ValueError(
                    f"{field.name}: an option of {known}, not of {'--suite ' + self.suite if self.suite else 'none'}"
                )
        trained_models(self.trained)

    @property
    def names(self) -> list[str]:
        """Of the tasks."""
        if self.tasks is not None:
            return self.tasks.split(",")
        return list(FAMILY_NAMES if self.suite == "tiny13" else TASK_NAMES)

    @property
    def thresholds(self) -> list[float]:
        """Of the curve."""
        return [float(p) for p in (self.curve or "").split(",") if p]


# Options that not every kind of evaluation has, and which have them; None: the one without a suite.
OWN = {
    "recipe": ("paper",), "trained": ("paper", "tiny13"), "methods": (None,), "ratio": (None,), "curve_questions": ("tiny13",),
} | dict.fromkeys(("tasks", "split", "questions", "scope", "curve", "batch_size", "threads"), (None, "tiny13"))  # fmt: skip


def trained_models(text: str | None) -> dict[str, str]:
    """Row of the table -> model, of `FOLDER` or `name=FOLDER,name=FOLDER`."""
    if text is None or "=" not in text:
        return {"ZipR1": text} if text else {}
    models = {}
    for part in text.split(","):
        name, _, folder = part.partition("=")
        if not re.fullmatch(r"\w+", name) or not folder or f"ZipR1 ({name})" in models:
            raise ValueError(
                f"trained: {part!r} in {text!r}: give a folder, or name=FOLDER with commas between, each name once"
            )
        models[f"ZipR1 ({name})"] = folder
    return models
