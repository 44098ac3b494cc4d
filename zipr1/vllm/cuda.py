"""The backend on CUDA: FlashAttention, chosen by --attention-backend CUSTOM. Not tested on a GPU."""

from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadataBuilder,
)

from zipr1.vllm.attention import SparseBuilder, SparseImpl
from zipr1.vllm.memory import sparse_spec


class SparseFlashImpl(SparseImpl, FlashAttentionImpl):
    # A fused kernel would write keys and values before tokens are selected.
    def fused_output_quant_supported(self, quant_key) -> bool:
        return False

    def fused_rope_kvcache_supported(self) -> bool:
        return False

    def fused_qk_norm_rope_kvcache_supported(self) -> bool:
        return False

    def fused_qk_norm_mrope_kvcache_supported(self) -> bool:
        return False


class SparseFlashBuilder(SparseBuilder, FlashAttentionMetadataBuilder):
    """A step of single tokens has no sparse prompt, and only device operations: it can be recorded
    in a CUDA graph. Steps with prompts run between the pieces of a graph."""

    @classmethod
    def get_cudagraph_support(cls, vllm_config, kv_cache_spec) -> AttentionCGSupport:
        return AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE


class SparseFlashBackend(FlashAttentionBackend):
    forward_includes_kv_cache_update = True
    supports_kv_cache_update_bypass = False
    bucket = 0

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls():
        return SparseFlashImpl

    @staticmethod
    def get_builder_cls():
        return SparseFlashBuilder

    @classmethod
    def customize_spec(cls, spec):
        return sparse_spec(super().customize_spec(spec), cls.bucket)
