"""Refuses, when an engine starts, the settings of vLLM with which no answer would be exact."""

from vllm.distributed.kv_transfer import get_kv_transfer_group
from vllm.v1.kv_cache_interface import KVQuantMode

from zipr1.common.errors import InputError
from zipr1.vllm.memory import SparseSpec

CONNECTOR = "Zipr1Connector"


def check_engine(config, kv_cache_config) -> None:
    """Raises InputError for an unsupported setting; the message names the flag to change."""
    parallel = config.parallel_config
    refusals = (
        (
            config.speculative_config is not None,
            "speculative decoding: its draft would select tokens too; leave --speculative-config out",
        ),
        (
            parallel.decode_context_parallel_size > 1,
            "decode context parallelism splits a sequence over ranks; set "
            "--decode-context-parallel-size 1",
        ),
        (
            getattr(parallel, "prefill_context_parallel_size", 1) > 1,
            "prefill context parallelism splits a prompt over ranks; set "
            "--prefill-context-parallel-size 1",
        ),
        (
            getattr(parallel, "enable_dbo", False),
            "dual batch overlap splits a step in two; leave --enable-dbo out",
        ),
    )
    for refused, message in refusals:
        if refused:
            raise InputError(f"zipr1 in vLLM: {message}")
    if kv_cache_config is not None:
        check_specs(kv_cache_config)


def check_specs(kv_cache_config) -> None:
    """Raises InputError unless every layer has full attention with an exact KV cache."""
    for group in kv_cache_config.kv_cache_groups:
        spec, name = group.kv_cache_spec, group.layer_names[0] if group.layer_names else "a layer"
        window = getattr(spec, "sliding_window", None)
        if window or getattr(spec, "attention_chunk_size", None):
            raise InputError(
                f"zipr1 in vLLM: {name} has a sliding window, whose tokens cannot be dropped; "
                "this model can only be served dense (leave --kv-transfer-config out)"
            )
        if type(spec) is not SparseSpec:
            raise InputError(
                f"zipr1 in vLLM: {name} has a KV cache of kind {type(spec).__name__}, not of plain "
                "full attention through zipr1's backend; on a GPU set --attention-backend CUSTOM"
            )
        if spec.kv_quant_mode != KVQuantMode.NONE:
            raise InputError(
                "zipr1 in vLLM: a quantised KV cache is not supported; set --kv-cache-dtype auto"
            )


def check_alone(connector) -> None:
    """Raises InputError for a connector that is one of several of this worker."""
    if get_kv_transfer_group() is not connector:
        raise InputError(
            "zipr1 in vLLM: another KV connector would move KV blocks whose tokens are not those "
            f"of the prompt; --kv-transfer-config must name {CONNECTOR} alone"
        )


def check_layers(config, kv_caches) -> None:
    """Raises InputError unless the layers of this worker use our backend."""
    layers = config.compilation_config.static_forward_context
    for name in kv_caches:
        backend = layers[name].get_attn_backend()
        if not hasattr(backend, "bucket"):
            raise InputError(
                f"zipr1 in vLLM: {name} uses the attention backend {backend.get_name()}; set "
                "--attention-backend CUSTOM"
            )
        if cap := getattr(layers[name].impl, "logits_soft_cap", None):  # 0 stands for none
            raise InputError(
                f"zipr1 in vLLM: {name} caps its attention logits at {cap}, which the selection of "
                "tokens here does not; this model can only be served dense (leave "
                "--kv-transfer-config out)"
            )
