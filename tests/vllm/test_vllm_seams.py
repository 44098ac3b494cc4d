"""The interfaces of vLLM that the plugin goes through: when one moves, this says which."""

import inspect
from importlib.metadata import entry_points

import pytest
import torch

pytestmark = pytest.mark.vllm


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("group", "path"),
    [
        ("general_plugins", "zipr1.vllm.plugin:register"),
        ("logits_processors", "zipr1.vllm.guard:Guard"),
        ("endpoint_plugins", "zipr1.vllm.endpoint:Streaming"),
    ],
)
def test_vllm_finds_the_entry_point(group, path):
    (point,) = (one for one in entry_points(group=f"vllm.{group}") if one.name == "zipr1")
    assert point.value == path and point.load()


def test_the_plugin_registers_twice_and_keeps_vllms_own_specs():
    from vllm.v1.core.single_type_kv_cache_manager import SlidingWindowManager
    from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec
    from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

    from zipr1.vllm.memory import SparseManager, SparseSpec
    from zipr1.vllm.plugin import register

    register()
    register()
    common = {"block_size": 16, "num_kv_heads": 1, "head_size": 8, "dtype": torch.float32}
    find = KVCacheSpecRegistry.get_manager_class
    assert find(SparseSpec(**common)) is SparseManager
    assert find(FullAttentionSpec(**common)).__module__.startswith("vllm.")
    assert find(SlidingWindowSpec(**common, sliding_window=4)) is SlidingWindowManager


def test_the_cpu_backend_is_overridden_and_can_be_restored():
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    from zipr1.vllm.plugin import register

    register()
    backend = AttentionBackendEnum.CPU_ATTN.get_class()
    assert backend.__module__ == "zipr1.vllm.cpu" and backend.forward_includes_kv_cache_update
    assert backend.get_name() == "CPU_ATTN"


def test_attention_and_cache_update_have_the_arguments_that_are_passed():
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl
    from vllm.v1.attention.backends.flash_attn import FlashAttentionImpl

    names = ["self", "layer", "query", "key", "value", "kv_cache", "attn_metadata", "output"]
    update = ["self", "layer", "key", "value", "kv_cache", "slot_mapping"]
    for impl in (CPUAttentionBackendImpl, FlashAttentionImpl):
        assert parameters(impl.forward)[:8] == names, impl
        assert parameters(impl.do_kv_cache_update) == update, impl


def test_builders_have_the_arguments_that_are_passed():
    from vllm.v1.attention.backend import AttentionMetadataBuilder, CommonAttentionMetadata

    assert parameters(AttentionMetadataBuilder.build) == [
        "self", "common_prefix_len", "common_attn_metadata", "fast_build",
    ]  # fmt: skip
    fields = set(inspect.signature(CommonAttentionMetadata).parameters)
    assert fields >= {
        "query_start_loc", "query_start_loc_cpu", "seq_lens", "num_reqs", "num_actual_tokens",
        "max_query_len", "max_seq_len", "block_table_tensor", "slot_mapping",
    }  # fmt: skip


def test_the_connector_implements_all_that_vllm_asks_for():
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1

    from zipr1.vllm.connector import Zipr1Connector

    assert not Zipr1Connector.__abstractmethods__
    for name, method in vars(Zipr1Connector).items():
        stock = getattr(KVConnectorBase_V1, name, None)
        if stock is not None and inspect.isfunction(method) and name != "__init__":
            assert parameters(method) == parameters(stock), name


def test_managers_have_the_methods_that_are_called():
    from vllm.v1.core.kv_cache_coordinator import KVCacheCoordinator
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager

    remove = FullAttentionManager._remove_blocks_in_range
    assert parameters(remove) == ["self", "request_id", "first_block", "last_block"]
    assert parameters(FullAttentionManager.cache_blocks)[:3] == ["self", "request", "num_tokens"]
    assert "single_type_managers" in inspect.getsource(KVCacheCoordinator.__init__)


def test_the_streams_take_their_results_as_an_argument():
    from zipr1.vllm.endpoint import OpenAIServingChat, OpenAIServingCompletion

    chat = parameters(OpenAIServingChat.chat_completion_stream_generator)
    assert chat[:3] == ["self", "request", "result_generator"]
    completion = parameters(OpenAIServingCompletion.completion_stream_generator)
    assert completion[:4] == ["self", "request", "engine_inputs", "result_generator"]
    whole = parameters(OpenAIServingChat.chat_completion_full_generator)
    assert whole[:3] == ["self", "request", "result_generator"]
    whole = parameters(OpenAIServingCompletion.request_output_to_completion_response)
    assert whole[:3] == ["self", "final_res_batch", "request"]
    for create in (
        OpenAIServingChat.create_chat_completion,
        OpenAIServingCompletion.create_completion,
    ):
        assert parameters(create) == ["self", "request", "raw_request"]
