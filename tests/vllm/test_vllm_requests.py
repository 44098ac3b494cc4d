"""What the connector decides about settings and requests, of real configurations of vLLM."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
import vllm_engine as v
from conftest import random_model, tiny_processor

from zipr1.common.errors import InputError
from zipr1.models.saving import save

pytestmark = pytest.mark.vllm


# A subclass of vLLM's Llama and names for it, all without the hooks of scope "layer".
OTHERS = ("Phi3ForCausalLM", "LLaMAForCausalLM", "InternLM3ForCausalLM")


@pytest.fixture(autouse=True)
def guard_as_before(monkeypatch):
    """A connector sets it for its process."""
    from zipr1.vllm.guard import Guard

    monkeypatch.setattr(Guard, "no_layer", Guard.no_layer)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a dense model and of a mixture of experts."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("llama", "qwen3_moe"):
        save(random_model(family), tiny_processor().tokenizer, folder / family)
    for name in OTHERS:
        shutil.copytree(folder / "llama", folder / name)
        config = json.loads((folder / name / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps(config | {"architectures": [name]}))
    return folder


def configured(model, defaults=None, **settings):
    """The configuration that an engine with these arguments would have."""
    from vllm.engine.arg_utils import EngineArgs

    arguments = {"enforce_eager": True, "max_model_len": 512, "dtype": "float32"}
    arguments["kv_transfer_config"] = v.connector(**defaults or {})
    return EngineArgs(str(model), **arguments | settings).create_engine_config()


def scheduler_side(config):
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

    from zipr1.vllm.connector import Zipr1Connector

    return Zipr1Connector(config, KVConnectorRole.SCHEDULER, None)


def request(name="one", **params):
    """A request of 40 tokens; `params` are those of SamplingParams."""
    from vllm import SamplingParams
    from vllm.v1.request import Request

    sampling = SamplingParams(max_tokens=4, **params)
    return Request(name, list(range(40)), sampling, None)


def pooled(name="one"):
    from vllm import PoolingParams
    from vllm.v1.request import Request

    return Request(name, list(range(40)), None, PoolingParams(task="embed"))


def test_a_pooling_request_stays_dense(models):
    connector = scheduler_side(configured(models / "llama", {"p": 0.5}))
    connector.on_new_request(pooled())
    assert not connector.requests and not connector.sparse
    connector.on_new_request(request())
    assert list(connector.sparse) == ["one"]


@pytest.mark.parametrize("params", [{"prompt_logprobs": 1}, {"prompt_logprobs": 0}])
def test_a_prompt_whose_log_probabilities_are_returned_stays_dense(models, params):
    connector = scheduler_side(configured(models / "llama", {"p": 0.5}))
    connector.on_new_request(request(**params))
    assert not connector.sparse
    said = connector.requests["one"].answer()
    assert said["token_ratio"] == 1
    assert said["dense"] == "log-probabilities of the prompt were asked for"


NO_LAYER = [
    ("llama", {"enforce_eager": False}, "--enforce-eager"),
    ("llama", {"enable_lora": True}, "without --enable-lora"),
    ("qwen3_moe", {"data_parallel_size": 2}, "--data-parallel-size 1"),
    *((name, {}, f"not implemented for {name}: use scope attention or keys") for name in OTHERS),
]


@pytest.mark.parametrize(("family", "settings", "flag"), NO_LAYER)
def test_scope_layer_is_refused_where_it_cannot_be_exact(
    models, monkeypatch, family, settings, flag
):
    from vllm import SamplingParams

    from zipr1.vllm.connector import Zipr1Connector
    from zipr1.vllm.guard import Guard

    with pytest.raises(InputError, match=flag):
        scheduler_side(configured(models / family, {"scope": "layer"}, **settings))
    config = configured(models / family, **settings)
    connector = scheduler_side(config)
    extra = {"zipr1_p": 0.5, "zipr1_scope": "layer"}
    with pytest.raises(InputError, match=flag):  # also without the server's metrics, as in Python
        Guard.validate_params(SamplingParams(extra_args=extra))
    connector.on_new_request(request(extra_args=extra))
    assert not connector.sparse and flag in connector.requests["one"].dense
    connector.on_new_request(request("two", extra_args={"zipr1_p": 0.5}))
    assert list(connector.sparse) == ["two"]
    monkeypatch.setattr(Guard, "no_layer", None)
    Zipr1Connector.build_prom_metrics(config, metric_types(), ["engine"], {0: ["0"]})
    with pytest.raises(InputError, match=f"zipr1_scope='layer'.*{flag}"):
        Guard.validate_params(SamplingParams(extra_args=extra))
    Guard.validate_params(SamplingParams(extra_args={"zipr1_p": 0.5}))


def finished(connector, one) -> dict:
    """The answer of a request that ends without having been prefilled sparsely."""
    connector.on_new_request(one)
    _, answer = connector.request_finished(one, [])
    return answer["zipr1"]


def test_metrics_count_only_requests_for_sparse_attention(models):
    connector = scheduler_side(configured(models / "llama", {"p": 0.5}))
    assert finished(connector, request(extra_args={"zipr1_p": 1}))["token_ratio"] == 1
    assert connector.get_kv_connector_stats() is None
    finished(connector, request("short", extra_args={"zipr1_min_tokens": 100}))
    stats = connector.get_kv_connector_stats()
    assert stats.data["ratios"] == [1.0] and stats.data["dense"] == 1


def test_scores_of_given_tokens_stay_dense_unless_the_request_has_settings(models):
    """As /generative_scoring asks for them, whose answers have no place for a ratio."""
    connector = scheduler_side(configured(models / "llama", {"p": 0.5}))
    scores = {"logprobs": 1, "logprob_token_ids": [7]}
    assert "log-probabilities of given" in finished(connector, request(**scores))["dense"]
    connector.on_new_request(request(extra_args={"zipr1_p": 0.5}, **scores))
    assert list(connector.sparse) == ["one"]


def test_kv_offloading_is_refused_with_the_flag(models):
    with pytest.raises(ValueError, match=r"OffloadingConnector.*leave --kv-offloading-size out"):
        configured(models / "llama", kv_offloading_size=1.0)


def test_min_tokens_auto_measures_the_engine_that_is_served(models, monkeypatch, tmp_path):
    from vllm import LLM

    from zipr1.vllm import break_even
    from zipr1.vllm.config import ServeConfig
    from zipr1.vllm.serve import command_line

    engines, more = [], tmp_path / "more.yaml"
    monkeypatch.setattr(LLM, "from_engine_args", engines.append)
    monkeypatch.setattr(break_even, "measure", lambda llm, longest: [])
    more.write_text("block-size: 64\n")
    flags = ["--tensor_parallel_size", "2", "-O1", "--additional-config.key", "5"]
    flags += ["--config", str(more), "--max-num-seq=3", "--uvicorn-log-level", "error"]
    model = str(models / "llama")
    command, _ = command_line(ServeConfig(model, vllm=flags), model)
    break_even.main(str(tmp_path / "rows.json"), "512", *command[3:])
    (found,) = engines
    assert found.tensor_parallel_size == 2 and found.block_size == 64 and found.max_num_seqs == 3
    assert str(found.optimization_level) == "1" and found.additional_config == {"key": 5}


def metric_types() -> dict:
    """Those of Prometheus, in a registry of their own."""
    from functools import partial

    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    registry = CollectorRegistry()
    return {one: partial(one, registry=registry) for one in (Counter, Gauge, Histogram)}


@pytest.mark.parametrize("settings", [{}, {"data_parallel_size": 2}])
def test_scope_layer_is_allowed_elsewhere(models, settings):
    connector = scheduler_side(
        configured(models / "llama", {"scope": "layer", "p": 0.5}, **settings)
    )
    connector.on_new_request(request())
    assert list(connector.sparse) == ["one"]


@pytest.mark.parametrize("settings", [{"enable_dbo": True}, {"ubatch_size": 2}])
def test_micro_batches_are_refused(models, settings):
    config = configured(models / "llama")
    for name, value in settings.items():  # vLLM itself clears them on a CPU, or wants GPU kernels
        setattr(config.parallel_config, name, value)
    with pytest.raises(InputError, match="leave --enable-dbo and --ubatch-size out"):
        scheduler_side(config)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"alibi_slopes": [0.5, 0.25]}, "ALiBi"),
        ({"sinks": torch.zeros(2)}, "attention sinks"),
        ({"logits_soft_cap": 3.0}, r"caps its attention logits at 3\.0"),
        ({"logits_soft_cap": 0}, None),
    ],
)
def test_attention_that_the_selection_ignores_is_refused(models, settings, what):
    from vllm.config import set_current_vllm_config

    from zipr1.vllm.checks import check_layers
    from zipr1.vllm.cpu import SparseCPUBackend, SparseCPUImpl

    arguments = {"alibi_slopes": None, "sliding_window": None, "kv_cache_dtype": "auto"}
    with set_current_vllm_config(configured(models / "llama")):
        impl = SparseCPUImpl(2, 32, 1.0, num_kv_heads=2, **arguments | settings)
    layer = SimpleNamespace(impl=impl, get_attn_backend=lambda: SparseCPUBackend)
    compilation = SimpleNamespace(static_forward_context={"layers.0": layer})
    config = SimpleNamespace(compilation_config=compilation)
    if what is None:
        return check_layers(config, {"layers.0": None})
    with pytest.raises(InputError, match=rf"layers\.0 .*{what}"):
        check_layers(config, {"layers.0": None})


def test_more_input_of_a_session_is_not_taken_for_a_prompt(models):
    from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput

    connector = scheduler_side(configured(models / "llama", {"p": 0.5}))
    connector.on_new_request(request())

    def step(computed: int):
        output = SchedulerOutput.make_empty()
        output.scheduled_new_reqs = [NewRequestData.from_request(session(computed), ([7, 8],))]
        output.scheduled_cached_reqs = CachedRequestData.make_empty()
        return connector.build_connector_meta(output)

    def session(computed: int):
        one = request()
        one.num_computed_tokens = computed
        return one

    first, second = step(0), step(40)
    assert list(first.starts) == [7] and first.live
    assert not second.starts and second.live


def test_a_step_forgets_the_rows_of_the_one_before():
    from zipr1.vllm.messages import StepMetadata
    from zipr1.vllm.worker import WorkerState

    worker = WorkerState()
    worker.kept_rows.rows = torch.arange(3)
    worker.begin(StepMetadata())
    assert worker.kept_rows.rows is None


def test_a_prompt_that_is_split_after_a_preemption_says_that_it_was_sparse(models):
    from vllm.v1.outputs import KVConnectorOutput

    from zipr1.vllm.messages import Report, Reports

    connector = scheduler_side(configured(models / "llama", {"p": 0.5}))
    connector.on_new_request(request())
    for report in (Report({0: 20}, read=40), Report(dense="the prompt was split")):
        reports = Reports({"one": report})
        connector.update_connector_output(KVConnectorOutput(kv_connector_worker_meta=reports))
    said = connector.requests["one"].answer()["dense"]
    assert said.startswith("the prompt was split, after a preemption")


def test_without_the_connector_only_names_of_zipr1_are_refused(monkeypatch):
    from zipr1.vllm.guard import CONNECTOR, Guard

    monkeypatch.setitem(sys.modules, CONNECTOR, object())
    with pytest.raises(InputError, match=r"^p: .*did you mean zipr1_p\?"):
        Guard.check({"p": 0.5})
    monkeypatch.delitem(sys.modules, CONNECTOR)
    Guard.check({"p": 0.5, "zip": None})
    Guard.check(None)
    with pytest.raises(InputError, match=r"^zipr1-p: this server runs without zipr1"):
        Guard.check({"zipr1-p": 0.5})
