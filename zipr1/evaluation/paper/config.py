"""The settings of the suite paper, which its recipes hold."""

from dataclasses import dataclass, field

from zipr1.common.checks import check_positive
from zipr1.common.errors import InputError
from zipr1.evaluation.paper.benchmarks import BENCHMARKS, Benchmark

NAMES = [benchmark.name for benchmark in BENCHMARKS]


@dataclass
class SuiteConfig:
    """How the benchmarks are run; recipes/eval_paper.yaml has the values and their sources."""

    benchmarks: list[str] = field(default_factory=lambda: list(NAMES))
    """Names of the benchmarks to run."""
    model_args: dict[str, str | int | float] = field(default_factory=dict)
    """Arguments of zipr1.evaluation.lmms_model.ZipR1: frames, pixel bounds, dtype."""
    batch_size: int = 1
    """Number of questions in one pass."""
    processes: int = 1
    """Number of processes, each on a device of its own."""
    device: str | None = None
    """Device of a single process; unset, the first GPU where there is one."""
    limit: int | None = None
    """Number of questions of each task, from the first, for a trial."""
    prefix: str = ""
    """Prefix of the task names, for copies of the tasks in include_path."""
    include_path: str | None = None
    """Folder of task YAML files."""

    def __post_init__(self):
        check_positive(self, "batch_size", "processes", "limit")
        for name in self.benchmarks:
            if name not in NAMES:
                raise InputError(f"benchmarks: {name!r} is none of {', '.join(NAMES)}")
        if "MME" in self.benchmarks and (self.limit or 0) % 2:
            raise InputError(
                f"limit={self.limit}: must be even for MME, which scores its questions in pairs; "
                "or leave MME out"
            )

    @property
    def chosen(self) -> list[Benchmark]:
        return [benchmark for benchmark in BENCHMARKS if benchmark.name in self.benchmarks]
