"""A row of a results table: one method, its accuracy and its token ratio."""

from dataclasses import asdict, dataclass

from zipr1.common.documents import FINITE


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One method over all tasks.

    accuracy: mean over the tasks, with its 95 % interval; token_ratio: mean over the tasks of the
    fraction of prompt tokens that were kept; per_task: accuracy of each; questions: number of
    records; difference: of the accuracy to Full's, paired by question, None for Full itself. All
    are fractions. reward: the same of grades or of a reward function's values, where there are any.
    """

    __pydantic_config__ = FINITE

    method: str
    preset: str | None = None
    p: float | None = None
    token_ratio: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    per_task: dict[str, float]
    questions: int
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    reward: float | None = None
    reward_low: float | None = None
    reward_high: float | None = None
    reward_difference: float | None = None
    reward_difference_low: float | None = None
    reward_difference_high: float | None = None

    @property
    def name(self) -> str:
        return f"{self.method} ({self.preset})" if self.preset else self.method

    def to_json(self) -> dict:
        """The row in a file or on stdout, without keys for a difference or reward that is None."""
        row = asdict(self)
        return {
            name: value
            for name, value in row.items()
            if value is not None or not name.startswith(("difference", "reward"))
        }


@dataclass(frozen=True, kw_only=True)
class CostRow(TableRow):
    """A row of the suite tiny13, with what the method costs as a fraction of Full's cost.

    ratio: token ratio that a baseline was given; learned: mean accuracy over the tasks that Full
    has learned, with "low" and "high"; pairs: task of paired questions -> (fraction of pairs with
    both answers correct, low, high); flops, kv_bytes: of the decoder's prefill; kv_bytes_kept: of
    a prompt, in bytes; time: of the prefill, with that of the fastest and slowest repeats.
    """

    ratio: float | None
    learned: dict[str, float] | None
    pairs: dict[str, tuple[float, float, float]]
    flops: float
    kv_bytes: float
    kv_bytes_kept: float
    time: float
    time_low: float
    time_high: float
