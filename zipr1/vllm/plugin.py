"""What vLLM's entry point `vllm.general_plugins` calls, in every process, perhaps several times.

Without the connector in the engine's configuration nothing of this changes an output.
"""


def register() -> None:
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    from zipr1.vllm.memory import register_spec
    from zipr1.vllm.models import register_models

    if current_platform.is_cpu():
        register_backend(AttentionBackendEnum.CPU_ATTN, "zipr1.vllm.cpu.SparseCPUBackend")
    else:
        register_backend(AttentionBackendEnum.CUSTOM, "zipr1.vllm.cuda.SparseFlashBackend")
    register_spec()
    register_models()
