"""The scheduler's side of KV memory: empty blocks are given back, sparse blocks are not cached.

The later blocks of a request stay where they are in its list, so that vLLM's own counting of blocks
holds (`zipr1.vllm.blocks`).
"""

from dataclasses import dataclass, replace

from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec, replace_as
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from zipr1.vllm.blocks import empty_blocks


class SparseManager(FullAttentionManager):
    """Knows which requests are sparse (`uncached`, shared with the connector)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.uncached: dict = {}

    def free_empty_blocks(self, request_id: str, most: int, read: int) -> int:
        """Gives the empty blocks of a request back; returns how many."""
        before = self.block_pool.get_num_free_blocks()
        self._remove_blocks_in_range(request_id, *empty_blocks(most, read, self.block_size))
        return self.block_pool.get_num_free_blocks() - before

    def cache_blocks(self, request, num_tokens: int, *args, **kwargs) -> None:
        if request.request_id not in self.uncached:
            super().cache_blocks(request, num_tokens, *args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class SparseSpec(FullAttentionSpec):
    """bucket: layers of one bucket share a block table."""

    bucket: int = 0

    @classmethod
    def merge(cls, specs):
        if len({spec.bucket for spec in specs}) > 1:
            # The exception by which vLLM's own specs say that they cannot be merged.
            raise AssertionError("layers of different buckets have block tables of their own")
        merged = super().merge([replace(spec, bucket=0) for spec in specs])
        return replace(merged, bucket=specs[0].bucket)

    def is_uniform_with_collection(self, kv_cache_specs) -> bool:
        same = len({getattr(spec, "bucket", None) for spec in kv_cache_specs.values()}) == 1
        return same and super().is_uniform_with_collection(kv_cache_specs)


def sparse_spec(spec, bucket: int):
    """The spec of a layer with full attention; any other one as it is."""
    if type(spec) is not FullAttentionSpec:
        return spec
    return replace_as(spec, SparseSpec, bucket=bucket)


def register_spec() -> None:
    """May be called several times."""
    # Registers vLLM's own specs, which it does only while the registry is empty.
    KVCacheSpecRegistry.check_kv_cache_spec_registry({})
    KVCacheSpecRegistry.register(
        SparseSpec, SparseManager, uniform_type_base_spec=FullAttentionSpec
    )
