"""The settings of `zipr1 plan`."""

from dataclasses import dataclass

from zipr1.common.checks import check_ranges
from zipr1.training.config import TrainConfig


@dataclass
class PlanConfig(TrainConfig):
    """`zipr1 plan`: what a step of `zipr1 train` with these options will take, from shapes; loads
    and trains nothing."""

    shape: str | None = None
    """A published model whose shape is built in, so that nothing is read: 3b, 7b, 32b or 72b
    (Qwen2.5-VL), qwen2-2b, qwen2-7b, qwen2-72b, qwen3-2b, qwen3-4b, qwen3-8b or qwen3-32b."""
    memory: float = 80.0
    """The memory of one GPU in GB, for whether a step fits, and of which vLLM takes its part."""
    prompt: int = 2048
    """The number of prompt tokens."""
    ratio: float = 0.5
    """The fraction of them that a layer keeps, mean over the run."""
    processes: int = 1
    """The number of processes that divide a step."""
    tflops: float | None = None
    """The measured speed of one process in TFLOP/s, for an estimate of the time."""

    def __post_init__(self):
        super().__post_init__()
        check_ranges(
            self, {"[1, inf)": "prompt processes", "(0, 1]": "ratio", "(0, inf)": "tflops memory"}
        )
