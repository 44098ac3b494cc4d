"""Refuses, when an engine starts, the settings of vLLM with which no answer would be exact."""

from vllm.distributed.kv_transfer import get_kv_transfer_group
from vllm.v1.kv_cache_interface import KVQuantMode

from zipr1.common.errors import InputError
from zipr1.vllm.memory import SparseSpec

CONNECTOR = "Zipr1Connector"
ARCHITECTURES = {  # class whose layers zipr1.vllm.models adapts -> its module in vLLM's models
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_vl_moe",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}


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
            getattr(parallel, "use_ubatching", False),
            "micro-batches split a step; leave --enable-dbo and --ubatch-size out",
        ),
    )
    for refused, message in refusals:
        if refused:
            raise InputError(f"zipr1 in vLLM: {message}")
    if kv_cache_config is not None:
        check_specs(kv_cache_config)


def no_layer_scope(config) -> str | None:
    """Why an engine cannot run scope "layer", whose MLPs see fewer rows than the step has tokens;
    None where it can."""
    name = config.model_config.architecture
    if name not in ARCHITECTURES:
        return (
            f"scope layer is not implemented for {name}: use scope attention or keys, or one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    if not config.model_config.enforce_eager:
        return "scope layer needs a server with --enforce-eager"
    if config.lora_config is not None:
        return "scope layer needs a server without --enable-lora: merge the adapter (zipr1 serve)"
    if config.parallel_config.data_parallel_size > 1 and config.model_config.is_moe:
        return "scope layer in a mixture of experts needs a server with --data-parallel-size 1"
    return None


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
        check_plain(name, layers[name].impl)


def check_plain(name: str, impl) -> None:
    """Raises InputError for an attention layer that the selection of tokens does not reproduce."""
    cap = getattr(impl, "logits_soft_cap", None)  # 0 stands for none
    extras = (
        (bool(cap), f"caps its attention logits at {cap}"),
        (
            getattr(impl, "alibi_slopes", None) is not None,
            "adds ALiBi biases to its attention logits",
        ),
        (getattr(impl, "sinks", None) is not None, "has attention sinks"),
    )
    for present, what in extras:
        if present:
            raise InputError(
                f"zipr1 in vLLM: {name} {what}, which the selection of tokens here ignores; "
                "this model can only be served dense (leave --kv-transfer-config out)"
            )
