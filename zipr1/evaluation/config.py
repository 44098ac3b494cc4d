"""The settings of `zipr1 eval`."""

import re
from dataclasses import dataclass, fields
from typing import Literal

from zipr1.common.checks import check_ranges
from zipr1.common.errors import InputError
from zipr1.common.scope import Scope
from zipr1.tasks.names import FAMILY_NAMES, TASK_NAMES, check_tasks

MAX_NEW_TOKENS = 8
METHODS = ("full", "zipvl", "topk", "random", "recent", "fastv", "downsample", "fewer_frames")


@dataclass
class EvalConfig:
    """`zipr1 eval`: measures accuracy and token ratio of a model under several methods."""

    model: str
    """Hub id or folder of the model, or the embedded zipr1/tiny."""
    methods: str = "full,zipvl"
    """Methods with commas between: full, zipvl, topk, random, recent, fastv, downsample and
    fewer_frames (videos only)."""
    tasks: str | None = None
    """Embedded tasks with commas between; unset, the six of the demo, and in the suite tiny13 its
    thirteen."""
    split: Literal["val", "test"] = "test"
    """Split of the tasks' questions."""
    questions: int = 200
    """Number of questions of each task."""
    p: float | None = None
    """Top-p threshold of zipvl: the fraction of the attention to keep; unset, what the model was
    trained for (0.975 for one that was not)."""
    ratio: float = 0.25
    """Token ratio of the other methods: the fraction of the tokens to keep (fastv: from its layer
    on; downsample and fewer_frames: of the visual ones). In the suite tiny13 it is the ratio that
    was measured for the last of --trained."""
    scope: Scope | None = None
    """What is skipped for dropped tokens: attention only, or the whole layer (zipr1.sparse); unset,
    what the model was trained for."""
    curve: str | None = None
    """More thresholds, as 0.9,0.99, for a curve of accuracy against token ratio. The suite tiny13
    has its own where this is unset."""
    curve_questions: int = 20
    """Number of questions of each task for each point of the curves of the suite tiny13."""
    batch_size: int = 25
    """Number of questions in one pass."""
    suite: Literal["paper", "tiny13"] | None = None
    """Suite of tasks: paper, its thirteen benchmarks through lmms-eval; or tiny13, thirteen
    embedded tasks with baselines, curves and cost."""
    recipe: str = "eval_paper"
    """Recipe of the suite paper: frames, pixel bounds, batch size."""
    trained: str | None = None
    """Model after post-training, for the row ZipR1 of a suite; or several, as
    paper=FOLDER,exact=FOLDER."""
    output_dir: str = "runs/eval"
    """Folder of records, tables and figures; an evaluation that was stopped continues in it."""
    threads: int = 2
    """Number of CPU threads; in the suite tiny13 processes of one thread, each with its own copy of
    the model."""
    json: bool = False
    """Print the rows of the table as JSON."""

    def __post_init__(self):
        counts = "questions curve_questions batch_size threads"
        check_ranges(self, {"[1, inf)": counts, "(0, 1]": "p ratio"})
        check_tasks(self.names)
        check_names("tasks", self.names)
        check_names("methods", self.methods.split(","), METHODS)
        self.check_options()
        self.thresholds  # noqa: B018  raises where the curve has none
        trained_models(self.trained)

    def check_options(self) -> None:
        """Raises InputError for an option that this kind of evaluation does not have."""
        for field in fields(self):
            suites = OPTIONS_OF.get(field.name, (self.suite,))
            if self.suite not in suites and getattr(self, field.name) != field.default:
                known = " or ".join(f"--suite {one}" if one else "no suite" for one in suites)
                mine = f"--suite {self.suite}" if self.suite else "none"
                raise InputError(f"{field.name}: an option of {known}, not of {mine}")

    @property
    def names(self) -> list[str]:
        """The names of the tasks."""
        if self.tasks is not None:
            return self.tasks.split(",")
        return list(FAMILY_NAMES if self.suite == "tiny13" else TASK_NAMES)

    @property
    def thresholds(self) -> list[float]:
        """The thresholds of the curve. Raises InputError, which names the option."""
        return thresholds_of(self.curve or "")


# Options that not every kind of evaluation has, and the suites that have them; None: no suite.
OPTIONS_OF = {
    "recipe": ("paper",),
    "trained": ("paper", "tiny13"),
    "methods": (None,),
    "ratio": (None,),
    "curve_questions": ("tiny13",),
} | dict.fromkeys(
    ("tasks", "split", "questions", "scope", "curve", "batch_size", "threads"), (None, "tiny13")
)


def check_names(option: str, names: list[str], known: tuple[str, ...] | None = None) -> None:
    """Raises InputError for a name that is unknown or comes twice."""
    for name in names:
        if known is not None and name not in known:
            raise InputError(f"{option}: {name[:80]!r}: expected some of {', '.join(known)}")
        if names.count(name) > 1:
            raise InputError(f"{option}: {name!r} comes twice")


def thresholds_of(curve: str) -> list[float]:
    """Top-p thresholds, of "0.9,0.99". Raises InputError, which names the option --curve."""
    found = []
    for text in filter(None, curve.split(",")):
        try:
            p = float(text)
        except ValueError as error:
            raise InputError(
                f"curve={curve[:80]}: {text[:80]!r} is no number; give thresholds, as 0.9,0.99"
            ) from error
        if not 0 < p <= 1:
            raise InputError(f"curve={curve[:80]}: p={p:g}: must lie in (0, 1], for example 0.975")
        found.append(p)
    return found


def trained_models(text: str | None) -> dict[str, str]:
    """Row of the table -> model, of `FOLDER` or `name=FOLDER,name=FOLDER`."""
    if text is None or "=" not in text:
        return {"ZipR1": text} if text else {}
    models = {}
    for part in text.split(","):
        name, _, folder = part.partition("=")
        if not re.fullmatch(r"\w+", name) or not folder or f"ZipR1 ({name})" in models:
            raise InputError(
                f"trained: {part!r} in {text!r}: give a folder, or name=FOLDER with commas "
                "between, each name once"
            )
        models[f"ZipR1 ({name})"] = folder
    return models
