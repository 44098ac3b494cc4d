"""What cannot be exact is refused when the engine starts, with the flag to change."""

import json
import shutil
import sys

import pytest
import vllm_engine as v
from command_line import run
from conftest import random_model, tiny_processor
from family_models import small_model

from zipr1.common.errors import InputError
from zipr1.models.saving import save

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    save(random_model("llama"), tiny_processor().tokenizer, folder)
    return folder


def refuse(**settings):
    with v.engine(**settings):
        pytest.fail("the engine has started")


def test_speculative_decoding(llama):
    drafts = {"method": "draft_model", "model": str(llama), "num_speculative_tokens": 2}
    with pytest.raises(InputError, match="--speculative-config"):
        refuse(model=llama, speculative_config=drafts)


def test_another_connector(llama):
    transfer = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [v.connector()]},
    }
    with pytest.raises(InputError, match=r"another KV connector.*must name Zipr1Connector alone"):
        refuse(model=llama, transfer=transfer)


def test_a_quantised_kv_cache(llama):
    with pytest.raises(InputError, match="--kv-cache-dtype auto"):
        refuse(model=llama, kv_cache_dtype="fp8")


def test_a_sliding_window(llama, tmp_path):
    folder = tmp_path / "mistral"
    shutil.copytree(llama, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    config |= {"sliding_window": 64}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="sliding window"):
        refuse(model=folder)


def test_capped_logits(tmp_path):
    tokenizer = tiny_processor().tokenizer
    text = {"vocab_size": len(tokenizer), "layer_types": ["full_attention"] * 4, "head_dim": 32}
    save(small_model("gemma2", text), tokenizer, tmp_path)
    with pytest.raises(InputError, match=r"caps its attention logits at 2\.0"):
        refuse(model=tmp_path)


def test_a_wrong_default(llama):
    with pytest.raises(InputError, match=r"zipr1_p=1\.5"):
        refuse(model=llama, transfer=v.connector(p=1.5))


def test_another_attention_backend(llama):
    with v.stock_backend(), pytest.raises(InputError, match="--attention-backend CUSTOM"):
        refuse(model=llama)


def test_a_request_is_refused_where_the_connector_is_not_configured(llama, monkeypatch):
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    monkeypatch.delitem(sys.modules, "zipr1.vllm.connector", raising=False)
    with v.engine(model=llama, transfer={}) as llm:
        params = SamplingParams(max_tokens=1, extra_args={"zipr1_p": 0.9})
        with pytest.raises(
            VLLMValidationError, match="runs without zipr1: start it with `zipr1 serve`"
        ):
            llm.generate(["one two"], params, use_tqdm=False)


def test_bench_serve_refuses_prompts_that_the_model_has_no_positions_for(capsys, tmp_path):
    flags = ("--tokens", "1024,4096", "--output_dir", str(tmp_path))
    status, _, error = run(capsys, "bench", "serve", "zipr1/tiny", *flags)
    assert status == 2 and "tokens=1024,4096: the model has 4096 positions" in error
