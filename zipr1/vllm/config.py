"""The settings of `zipr1 serve`."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from zipr1.common.checks import check_ranges
from zipr1.common.errors import InputError
from zipr1.common.scope import Scope

# vLLM's flags that zipr1 sets -> what to give instead.
SET_BY_ZIPR1 = {
    "model": "the model by position",
    "served-model-name": "--name",
    "host": "--host",
    "port": "--port",
    "max-model-len": "--max_model_len",
    "kv-transfer-config": "--p, --scope and --min_tokens",
    "enable-chunked-prefill": "nothing: a sparse prompt is prefilled in one step",
    "no-enable-chunked-prefill": "nothing: it is set",
    "attention-backend": "nothing: zipr1 has its own",
    "kv-offloading-size": "nothing: KV blocks of sparse prompts cannot be offloaded",
}
# Modes of `vllm serve`, ignored by the server as a module, which zipr1 starts.
MODES = ("headless", "api-server-count", "grpc", "data-parallel-multi-port-external-lb")
SHORT = {"-asc": "--api-server-count", "-dpm": "--data-parallel-multi-port-external-lb"}


@dataclass
class ServeConfig:
    """`zipr1 serve`: vLLM's OpenAI server, whose prefill keeps a fraction of a prompt's tokens.

    zipr1 serve Qwen/Qwen2.5-VL-3B-Instruct --p 0.975 --port 8000
    zipr1 serve runs/mine/final --min_tokens 1024 -- --tensor-parallel-size 2

    What follows -- goes to vLLM as it is.
    """

    model: str
    """The model: a hub id, a folder, a folder with a LoRA adapter (merged for the server), or the
    embedded one."""
    p: float | None = None
    """The fraction of the attention that requests keep by default; 1 is dense; unset, as the model
    was trained (0.975 for a model that was not)."""
    scope: Scope | None = None
    """What dropped tokens skip by default (zipr1.sparse): the attention, the whole layer, or the
    attention as keys alone; unset, as the model was trained."""
    min_tokens: int | Literal["auto"] = 0
    """The prompt length in tokens below which a prompt stays dense by default; auto measures at the
    start from which length on a sparse prefill is not slower, and prints it."""
    name: str | None = None
    """The name of the model in requests; unset, the model as it was given."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for all."""
    port: int = 8000
    """The port to listen on."""
    max_model_len: int | None = None
    """The largest number of tokens of prompt and answer together, and of a step of the engine;
    unset, the model's own limit, 32,768 at most."""
    buckets: int | None = None
    """The number of block tables, each for some of the layers; unset, up to 6."""
    vllm: list[str] = field(default_factory=list)
    """The arguments for vLLM, after --."""

    def __post_init__(self):
        check_ranges(self, {"(0, 1]": "p", "[1, inf)": "port buckets max_model_len"})
        if self.min_tokens != "auto":
            check_ranges(self, {"[0, inf)": "min_tokens"})
        for argument in flags_of(self.vllm):
            check_flag(argument)


def flags_of(arguments: list[str]) -> Iterator[str]:
    """The arguments, and those of a file that --config names."""
    yield from arguments
    if "--config" in arguments[:-1]:
        path = Path(arguments[arguments.index("--config") + 1])
        found = None
        with suppress(OSError, ValueError, yaml.YAMLError):  # vLLM refuses such a file itself
            found = yaml.safe_load(path.read_text())
        if isinstance(found, dict):
            yield from (f"--{key}" for key, value in found.items() if value not in (None, False))


def check_flag(argument: str) -> None:
    """Raises InputError for an argument that would override what zipr1 sets, or be ignored."""
    flag = argument.partition("=")[0]
    # vLLM takes _ for -, --flag.key for a part of a flag's value, and a flag's first letters.
    name = SHORT.get(flag, flag).partition(".")[0].replace("_", "-")
    if not name.startswith("--") or name == "--":
        return
    for known, instead in SET_BY_ZIPR1.items():
        if f"--{known}".startswith(name):
            raise InputError(f"{flag}: set by zipr1 serve; before the --, give {instead}")
    for known in MODES:
        if f"--{known}".startswith(name):
            raise InputError(
                f"{flag}: zipr1 serve runs one HTTP server with its engine, and vLLM would ignore "
                f"--{known}; leave it out"
            )
