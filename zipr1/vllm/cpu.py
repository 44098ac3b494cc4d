"""The backend on CPUs, where vLLM has one and its path is overridden."""

from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadataBuilder,
)

from zipr1.vllm.attention import SparseBuilder, SparseImpl
from zipr1.vllm.memory import sparse_spec


class SparseCPUImpl(SparseImpl, CPUAttentionBackendImpl):
    pass


class SparseCPUBuilder(SparseBuilder, CPUAttentionMetadataBuilder):
    pass


class SparseCPUBackend(CPUAttentionBackend):
    forward_includes_kv_cache_update = True
    bucket = 0

    @staticmethod
    def get_impl_cls():
        return SparseCPUImpl

    @staticmethod
    def get_builder_cls():
        return SparseCPUBuilder

    @classmethod
    def customize_spec(cls, spec):
        return sparse_spec(super().customize_spec(spec), cls.bucket)
