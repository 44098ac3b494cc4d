"""The settings of `zipr1 bench`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zipr1.common.checks import check_positive, check_ranges, plain_values
from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES

PHASES = ("attention", "prefill", "decode", "vision", "ttft")
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
    """`zipr1 bench`: times dense and sparse inference and compares the speed-up with its bound.

    `zipr1 bench train` times post-training.
    """

    shape: Literal["3b", "7b"] = "3b"
    """The size of Qwen2.5-VL; its weights are random."""
    layers: int | None = None
    """The number of decoder layers; unset, one on a CPU and all of them on a GPU."""
    tokens: str = "1024,2048,4096,8192"
    """The prompt lengths in tokens, with commas between them."""
    ratios: str = "0.25,1"
    """The token ratios, with commas between them."""
    phases: str = "attention,prefill,decode"
    """The phases to time: some of attention, prefill, decode, vision and ttft, the time to first
    token of the whole model (on a CPU from few layers of each kind)."""
    rules: str = "topk"
    """The rules to time: some of topk, recent, fastv and downsample (dense attention on a prompt of
    ratio * tokens), or your own as package.module:Rule or file.py:Rule."""
    decode_batches: str = "1,8"
    """The batch sizes of a decoding step, with commas between them."""
    repeats: int = 5
    """The number of pairs of calls behind each time."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The type of the weights; unset, float32 on a CPU and bfloat16 on a GPU."""
    threads: int = 2
    """The number of CPU threads."""
    output_dir: str = "runs/bench"
    """The folder for bench.csv, bench.json and bench.png."""
    json: bool = False
    """Whether to print the rows as JSON."""

    def __post_init__(self):
        plain_values(self)
        check_positive(self, "layers", "repeats")
        check_ranges(self, {"[1, 1024]": "threads"})
        for name, known in (("phases", PHASES), ("rules", RULES)):
            for value in getattr(self, name).split(","):
                if value not in known and not (name == "rules" and ":" in value):
                    raise InputError(f"{name}: {value!r} is none of {', '.join(known)}")
        if any(number < 1 for number in (*self.numbers("tokens"), *self.numbers("decode_batches"))):
            raise InputError("tokens and decode_batches: every number must be at least 1")
        for ratio in self.numbers("ratios", float):
            if not 0 < ratio <= 1:
                raise InputError(f"ratio={ratio}: a token ratio must lie in (0, 1]")

    def numbers(self, name: str, kind: type = int) -> list:
        """A setting that is a list with commas. Raises InputError with its name."""
        return numbers_of(self, name, kind)


def numbers_of(config, name: str, kind: type) -> list:
    """A setting that is a list with commas. Raises InputError with its name."""
    try:
        return [kind(number) for number in getattr(config, name).split(",")]
    except ValueError as error:
        raise InputError(
            f"{name}={getattr(config, name)}: expected numbers with commas between them ({error})"
        ) from error


@dataclass
class BenchServeConfig:
    """`zipr1 bench serve`: times `zipr1 serve`, dense and sparse in turns, with vLLM's own client.

    Half of a prompt's tokens are one image, the others random text. The defaults are few runs,
    for a CPU; more are --tokens 1024,2048,4096,8192 --concurrency 1,4,16,32 --ratios 0.25,0.5
    --requests 8 --rounds 3.
    """

    model: str = "zipr1/tiny"
    """The model: a hub id, a folder, or the embedded one."""
    shape: Literal["3b", "7b"] | None = None
    """The size of a Qwen2.5-VL with random weights, instead of the model."""
    layers: int = 4
    """The number of decoder layers of `shape`."""
    tokens: str = "1024,2048"
    """The prompt lengths in tokens, with commas between them."""
    concurrency: str = "1,4"
    """The numbers of requests at a time, with commas between them."""
    ratios: str = "0.25"
    """The token ratios, with commas between them."""
    scopes: str = "attention,layer"
    """The scopes with commas between them: some of attention, layer and keys."""
    answer: int = 16
    """The number of generated tokens of a request."""
    requests: int = 4
    """The number of requests of a run; at least the concurrency."""
    rounds: int = 2
    """The number of runs behind each number."""
    kv_mib: int = 2048
    """The memory for keys and values on a CPU, in MiB."""
    output_dir: str = "runs/bench_serve"
    """The folder for serve.json, serve.md and server.log."""
    json: bool = False
    """Whether to print the rows as JSON."""

    def __post_init__(self):
        plain_values(self)
        check_positive(self, "layers", "answer", "requests", "rounds", "kv_mib")
        for scope in self.scopes.split(","):
            if scope not in SCOPES:
                raise InputError(f"scopes: {scope!r} is none of {', '.join(SCOPES)}")
        if any(number < 1 for number in (*self.numbers("tokens"), *self.numbers("concurrency"))):
            raise InputError("tokens and concurrency: every number must be at least 1")
        for ratio in self.numbers("ratios", float):
            if not 0 < ratio < 1:
                raise InputError(f"ratio={ratio}: a token ratio must lie in (0, 1)")

    def numbers(self, name: str, kind: type = int) -> list:
        """A setting that is a list with commas. Raises InputError with its name."""
        return numbers_of(self, name, kind)


@dataclass
class BenchTrainConfig:
    """`zipr1 bench train`: times the parts of a training step with sparse and dense rollouts."""

    recipe: str = "tiny_demo"
    """The recipe of `zipr1 train` to time."""
    steps: int = 6
    """The number of timed steps, after one that is not; the six embedded tasks take six steps."""
    repeats: int = 3
    """The number of sparse and of dense runs, which alternate."""
    threads: int = 1
    """The number of CPU threads."""
    output_dir: str = "runs/bench_train"
    """The folder for bench_train.json."""
    json: bool = False
    """Whether to print the rows as JSON."""

    def __post_init__(self):
        plain_values(self)
        check_positive(self, "steps", "repeats")
        check_ranges(self, {"[1, 1024]": "threads"})
