"""The settings of `zipr1 eval`."""

import re
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from zipr1.common.checks import check_ranges, plain_values
from zipr1.common.errors import InputError
from zipr1.common.scope import Scope
from zipr1.data.renaming import parse_columns
from zipr1.tasks.names import FAMILY_NAMES, TASK_NAMES, check_tasks

MAX_NEW_TOKENS = 8  # of an answer to an embedded task
QUESTIONS = 200  # of an embedded task
METHODS = ("full", "zipvl", "topk", "random", "recent", "fastv", "downsample", "fewer_frames")
VLLM_METHODS = ("full", "zipvl", "topk")  # of --engine vllm


@dataclass
class EvalConfig:
    """`zipr1 eval`: measures accuracy and token ratio of a model under several methods."""

    model: str
    """Hub id or folder of the model, or the embedded zipr1/tiny."""
    methods: str = "full,zipvl"
    """Methods with commas between: full, zipvl, topk, random, recent, fastv, downsample and
    fewer_frames (videos only), or your own rule as package.module:Rule or file.py:Rule."""
    data: str | None = None
    """Your rows instead of the embedded tasks, in the formats of `zipr1 train`: .json, .jsonl,
    .parquet, a folder or hub id, with :config and [split]."""
    columns: str | None = None
    """Your columns that stand for those of zipr1, as prompt=question,answer=solution."""
    media_root: str | None = None
    """Folder that relative media paths start from; unset, the folder of the data."""
    reward_function: str | None = None
    """Your reward function as package.module:name or file.py:name, with TRL's signature, instead of
    the graders; a value above one half counts as correct."""
    graded: bool = False
    """Whether the grades between 0 and 1 are reported too."""
    max_new_tokens: int | None = None
    """Largest number of tokens of an answer to a row; unset, 128."""
    max_frames: int = 16
    """Largest number of frames that are sampled from a video."""
    max_pixels: int | None = None
    """Largest area of an image in pixels; larger ones are shrunk."""
    video_max_pixels: int | None = None
    """The same limit for each frame of a video (Qwen3-VL: the whole video)."""
    max_prompt_length: int | None = None
    """Largest number of prompt tokens; longer rows are left out. Unset, what the model's positions
    allow."""
    think: bool = False
    """Whether Video-R1's questions ask for <think>."""
    chat_template: bool = True
    """Whether prompts are wrapped in the chat template; false for running text (text models)."""
    tasks: str | None = None
    """Embedded tasks with commas between; unset, the six of the demo, and in the suite tiny13 its
    thirteen."""
    split: Literal["val", "test"] = "test"
    """Split of the tasks' questions."""
    questions: int | None = None
    """Number of questions of each task (unset, 200), or of rows of the data (unset, all)."""
    p: float | None = None
    """Top-p threshold of zipvl: the fraction of the attention to keep; unset, what the model was
    trained for (0.975 for one that was not)."""
    ratio: float = 0.25
    """Token ratio of the other methods: the fraction of the tokens to keep (fastv: from its layer
    on; downsample and fewer_frames: of the visual ones). In the suite tiny13 it is the ratio that
    was measured for the last of --trained."""
    scope: Scope | None = None
    """What dropped tokens skip (zipr1.sparse): the attention, the whole layer, or the attention as
    keys alone; unset, what the model was trained for."""
    curve: str | None = None
    """More thresholds, as 0.9,0.99, for a curve of accuracy against token ratio: a second table,
    curve.json and curve.png. The suite tiny13 has its own where this is unset."""
    curve_questions: int = 20
    """Number of questions of each task for each point of the curves of the suite tiny13."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates the answers; vllm has the methods full, zipvl and topk."""
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

    completions: ClassVar[str] = "sampled"  # usable_rows.RowSettings

    def __post_init__(self):
        plain_values(self)
        counts = "questions curve_questions batch_size max_new_tokens max_frames max_pixels"
        counts += " video_max_pixels max_prompt_length"
        check_ranges(self, {"[1, inf)": counts, "[1, 1024]": "threads", "(0, 1]": "p ratio"})
        check_tasks(self.names)
        check_names("tasks", self.names)
        check_methods(self.methods.split(","), self.engine)
        parse_columns(self.columns)
        self.check_options()
        if self.questions is None and not self.data and self.suite != "paper":
            self.questions = QUESTIONS
        self.thresholds  # noqa: B018  raises where the curve has none
        trained_models(self.trained)

    def check_options(self) -> None:
        """Raises InputError for an option that this kind of evaluation does not have."""
        if self.suite and self.data:
            raise InputError(f"data={self.data[:80]}: a suite has its own questions; leave one out")
        kind = "data" if self.data else self.suite
        for field in fields(self):
            kinds = OPTIONS_OF.get(field.name, (kind,))
            if kind not in kinds and getattr(self, field.name) != field.default:
                named = [one for one in kinds if one != "data" or None not in kinds]
                known = " or ".join(KINDS[one] for one in named)
                mine = KINDS[kind] if kind else "none"
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


# Kinds of evaluation, and how they are asked for.
KINDS = {"paper": "--suite paper", "tiny13": "--suite tiny13", "data": "--data", None: "no suite"}
# Options that not every kind has, and the kinds that have them.
OPTIONS_OF = (
    {
        "recipe": ("paper",),
        "trained": ("paper", "tiny13"),
        "curve_questions": ("tiny13",),
    }
    | dict.fromkeys(("methods", "ratio"), (None, "data"))
    | {"engine": (None,)}
    | dict.fromkeys(("tasks", "split"), (None, "tiny13"))
    | dict.fromkeys(
        ("questions", "scope", "curve", "batch_size", "threads"), (None, "data", "tiny13")
    )
    | dict.fromkeys(
        (
            *("columns", "media_root", "reward_function", "graded", "max_new_tokens", "think"),
            *("max_frames", "max_pixels", "video_max_pixels", "max_prompt_length", "chat_template"),
        ),
        ("data",),
    )
)


def check_names(option: str, names: list[str]) -> None:
    """Raises InputError for a name that comes twice."""
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{option}: {name!r} comes twice")


def check_methods(methods: list[str], engine: str) -> None:
    """Raises InputError for a method that is unknown, or comes twice; own rules, which have a
    colon, are looked up later."""
    for method in methods:
        if engine == "vllm" and method not in VLLM_METHODS:
            raise InputError(
                f"methods: {method[:80]!r}: --engine vllm has {', '.join(VLLM_METHODS)}"
            )
        if method not in METHODS and ":" not in method:
            raise InputError(
                f"methods: {method[:80]!r}: expected some of {', '.join(METHODS)}, or your own "
                "rule as package.module:Rule or file.py:Rule"
            )
    check_names("methods", methods)


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
