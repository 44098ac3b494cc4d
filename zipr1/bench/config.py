"""The settings of `zipr1 bench`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zipr1.common.checks import check_positive

PHASES = ("attention", "prefill", "decode", "vision")
RULES = ("topk", "recent", "fastv", "downsample")
# Of Qwen2.5-VL-3B-Instruct and 7B-Instruct (their config.json): decoder and vision tower.
SHAPES = {
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "layers": 36,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "layers": 28,
    },
}


@dataclass
class BenchConfig:
    """`zipr1 bench`: times dense and sparse in one run, and prints how much of the bound is reached.

    `zipr1 bench train` times post-training.
    """

    shape: Literal["3b", "7b"] = "3b"
    """Of which Qwen2.5-VL; its weights are random."""
    layers: int | None = None
    """Of the decoder; unset, one on a CPU and all of them on a GPU."""
    tokens: str = "1024,2048,4096,8192"
    """Prompt lengths."""
    ratios: str = "0.25,1"
    """Shares of kept tokens."""
    phases: str = "attention,prefill,decode"
    """Of attention, prefill, decode and vision."""
    rules: str = "topk"
    """Of topk, recent, fastv and downsample (a dense prompt of ratio * tokens)."""
    decode_batches: str = "1,8"
    """Sequences of a decode step."""
    repeats: int = 5
    """Pairs of calls behind each number."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the weights; unset, float32 on a CPU and bfloat16 on a GPU."""
    threads: int = 2
    """CPU threads."""
    output_dir: str = "runs/bench"
    """Where bench.csv, bench.json and bench.png go."""
    json: bool = False
    """Print the rows as JSON."""

    def __post_init__(self):
        check_positive(self, "layers", "repeats", "threads")
        for name, known in (("phases", PHASES), ("rules", RULES)):
            for value in getattr(self, name).split(","):
                if value not in known:
                    raise ValueError(f"{name}: {value!r} is none of {', '.join(known)}")
        if any(number < 1 for number in (*self.numbers("tokens"), *self.numbers("decode_batches"))):
            raise ValueError("tokens and decode_batches: every number must be at least 1")
        for ratio in self.numbers("ratios", float):
            if not 0 < ratio <= 1:
                raise ValueError(f"ratio={ratio}: the share of tokens to keep must lie in (0, 1]")

    def numbers(self, name: str, kind: type = int) -> list:
        """A setting that is a list with commas. Raises ValueError with its name."""
        try:
            return [kind(number) for number in getattr(self, name).split(",")]
        except ValueError as error:
            raise ValueError(
                f"{name}={getattr(self, name)}: expected numbers with commas between them ({error})"
            ) from error


@dataclass
class BenchTrainConfig:
    """`zipr1 bench train`: seconds of a training step, split into its parts, of sparse and of dense rollouts."""

    recipe: str = "tiny_demo"
    """A recipe of zipr1 train."""
    steps: int = 6
    """Steps that are timed, after one that is not; the embedded tasks take six steps for a round."""
    repeats: int = 3
    """Runs of each kind, in turns."""
    threads: int = 1
    """CPU threads."""
    output_dir: str = "runs/bench_train"
    """Where everything goes."""
    json: bool = False
    """Print the rows as JSON."""

    def __post_init__(self):
        check_positive(self, "steps", "repeats", "threads")
