"""The settings of `zipr1 serve`."""

from dataclasses import dataclass, field
from typing import Literal

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
        for argument in self.vllm:
            flag = argument.partition("=")[0]
            name = flag[2:].replace("_", "-")
            if flag.startswith("--") and name in SET_BY_ZIPR1:
                raise InputError(
                    f"{flag}: set by zipr1 serve; before the --, give {SET_BY_ZIPR1[name]}"
                )
