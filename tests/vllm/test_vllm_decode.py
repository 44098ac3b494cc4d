"""Steps without sparse prompts need no host synchronisation."""

from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("captured", [True, False])
def test_a_decoding_step_reads_nothing_back_from_the_device(captured):
    """Tensors of the meta device have no values: what reads one raises."""
    from vllm.v1.attention.backend import CommonAttentionMetadata

    from zipr1.vllm.messages import StepMetadata
    from zipr1.vllm.steps import Step
    from zipr1.vllm.worker import BlockState, WorkerState

    meta, rows, tokens, layers = torch.device("meta"), 5, 8, ["a.layers.0.b", "a.layers.1.b"]
    common = CommonAttentionMetadata(
        query_start_loc=torch.empty(rows + 1, dtype=torch.int32, device=meta),
        query_start_loc_cpu=torch.arange(rows + 1, dtype=torch.int32),
        seq_lens=torch.empty(rows, dtype=torch.int32, device=meta),
        num_reqs=rows,
        num_actual_tokens=tokens,
        max_query_len=1,
        max_seq_len=100,
        block_table_tensor=torch.empty(rows, 12, dtype=torch.int32, device=meta),
        slot_mapping=torch.empty(tokens, dtype=torch.long, device=meta),
    )
    builder = SimpleNamespace(layer_names=layers, kv_cache_spec=SimpleNamespace(block_size=16))
    worker, state = WorkerState(), BlockState(0, layers, 40, meta)
    worker.blocks = dict.fromkeys(layers, state)
    worker.begin(StepMetadata(live=not captured))
    step = Step(builder, common, captured)
    step.worker = worker
    assert step.live
    step.state(torch.empty(40, 2, 16, 64, device=meta))
    for layer in layers:
        found = step.continued(step.index_of(layer))
        assert found.slot_mapping.shape == (tokens,) and found.seq_lens.shape == (rows,)
    assert step.prompts == []
