"""What needs no vLLM: request settings, the command of the server, block arithmetic."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import run
from conftest import random_model, tiny_processor

import zipr1
from zipr1.bench.serving_model import prompt_parts
from zipr1.common.errors import InputError
from zipr1.models.location import EMBEDDED
from zipr1.models.saving import save
from zipr1.vllm.blocks import compact_table, empty_blocks, slots_of
from zipr1.vllm.break_even import described, shortest
from zipr1.vllm.config import ServeConfig
from zipr1.vllm.request import RequestSettings, settings_of
from zipr1.vllm.serve import command_line, kv_transfer_config, plugins, servable


def test_a_request_overrides_the_defaults_of_the_server():
    default = RequestSettings(p=0.9, scope="layer", min_tokens=100)
    assert settings_of(None, default) == default
    assert settings_of({"other": 1}, default) == default
    found = settings_of({"zipr1_p": 1}, default)
    assert not found.sparse and found.scope == "layer"
    found = settings_of({"zipr1_ratio": 0.25, "zipr1_min_tokens": 0}, default)
    assert found.sparse and found.rule == zipr1.TopK(0.25) and found.min_tokens == 0
    ratio = RequestSettings(ratio=0.5)
    assert settings_of({"zipr1_p": 0.8}, ratio).rule == zipr1.TopP(0.8)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"zipr1_p": float("nan")}, "zipr1_p=nan"),
        ({"zipr1_p": True}, "zipr1_p=True"),
        ({"zipr1_p": None}, "zipr1_p=None"),
        ({"zipr1_p": None, "zipr1_scope": "layer"}, "zipr1_p=None"),
        ({"zipr1_p": "0.9"}, "zipr1_p='0.9'"),
        ({"zipr1_ratio": 0}, "zipr1_ratio=0"),
        ({"zipr1_min_tokens": 1.5}, "zipr1_min_tokens=1.5"),
        ({"zipr1_choice": "best"}, "zipr1_choice='best'"),
        ({"zipr1_return_kept": "yes"}, "zipr1_return_kept='yes'"),
        ({"zipr1_scop": "layer"}, "did you mean zipr1_scope"),
        ({"Zipr1_p": 0.2}, r"^Zipr1_p: .*did you mean zipr1_p\?"),
        ({"zipr1-p": 0.4}, r"^zipr1-p: .*did you mean zipr1_p\?"),
        ({"zipr1_P": 0.4}, r"^zipr1_P: .*did you mean zipr1_p\?"),
        ({"zipr1min-tokens": 4}, r"^zipr1min-tokens: .*did you mean zipr1_min_tokens\?"),
        ({"p": 0.3}, r"^p: .*did you mean zipr1_p\?"),
        ({"P": 0.3}, r"^P: .*did you mean zipr1_p\?"),
        ({"ratio": 0.3}, r"^ratio: .*did you mean zipr1_ratio\?"),
        ({"token_ratio": 0.3}, r"^token_ratio: .*did you mean zipr1_ratio\?"),
        ({"scope": "layer"}, r"^scope: .*did you mean zipr1_scope\?"),
        ({"min_tokens": 3}, r"^min_tokens: .*did you mean zipr1_min_tokens\?"),
    ],
)
def test_a_bad_request_setting_is_named(extra, message):
    with pytest.raises(InputError, match=message):
        settings_of(extra, RequestSettings())


def test_a_server_without_p_is_refused():
    defaults = kv_transfer_config({"p": None})["kv_connector_extra_config"]["defaults"]
    with pytest.raises(InputError, match="zipr1_p=None"):
        RequestSettings(**defaults)


def test_other_extra_arguments_are_left_alone():
    others = {"top": 1, "kv_transfer_params": {}, "scopes": "x", "priority": 2}
    assert settings_of(others, RequestSettings()) == RequestSettings()
    assert settings_of({"zipr1_ratio": None}, RequestSettings(p=0.5)).rule == zipr1.TopP(0.5)


def value_of(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_the_command_has_the_flags_that_sparse_prompts_need(monkeypatch):
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    config = ServeConfig("zipr1/tiny", p=0.8, min_tokens=64, vllm=["--seed", "1"])
    command, environment = command_line(config, str(EMBEDDED["zipr1/tiny"]))
    transfer = json.loads(value_of(command, "--kv-transfer-config"))
    defaults = transfer["kv_connector_extra_config"]["defaults"]
    assert RequestSettings(**defaults) == RequestSettings(p=0.8, min_tokens=64)
    assert "--no-enable-chunked-prefill" in command
    longest = value_of(command, "--max-model-len")
    assert value_of(command, "--max-num-batched-tokens") == longest == "4096"
    assert value_of(command, "--served-model-name") == "zipr1/tiny"
    assert command[-2:] == ["--seed", "1"]
    assert "zipr1" in environment["VLLM_PLUGINS"].split(",")


def test_the_defaults_are_those_that_the_model_was_trained_for(tmp_path):
    model, tokenizer = random_model("llama"), tiny_processor().tokenizer
    save(model, tokenizer, tmp_path, {"p": 0.7, "scope": "layer", "choice": "accumulated"})
    command, _ = command_line(ServeConfig(str(tmp_path)), str(tmp_path))
    transfer = json.loads(value_of(command, "--kv-transfer-config"))
    defaults = transfer["kv_connector_extra_config"]["defaults"]
    assert RequestSettings(**defaults) == RequestSettings(0.7, None, "layer", 0, "accumulated")
    assert "--enforce-eager" in command, "scope layer is not compiled"
    command, _ = command_line(ServeConfig(str(tmp_path), scope="attention"), str(tmp_path))
    assert "--enforce-eager" not in command


@pytest.mark.parametrize(
    ("speeds", "least"),
    [((0.7, 0.9, 1.1, 1.4), 1024), ((1.0, 0.97, 1.0), 256), ((1.2, 0.8), None), ((0.9,), None)],
)
def test_min_tokens_is_the_length_from_which_on_sparse_never_loses(speeds, least):
    rows = list(zip((256, 512, 1024, 2048), speeds, strict=False))
    assert shortest(rows) == least
    text = described(rows, least, 4096, "layer")
    assert (
        text.startswith(f"min_tokens={least or 4096}") and "50% of the tokens, scope layer" in text
    )
    assert all(f"{speed:.2f} at {tokens}" in text for tokens, speed in rows)


def test_plugins_that_the_user_chose_stay_chosen(monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "mine")
    assert set(plugins().split(",")) == {"mine", "zipr1"}


def test_an_adapter_is_merged_for_the_server(tmp_path):
    from peft import LoraConfig

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tokenizer = tiny_processor().tokenizer
    save(random_model("llama"), tokenizer, base)
    model, _ = zipr1.load(base)
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(1))
    save(model, tokenizer, adapter)
    ids = tokenizer("red blue green", return_tensors="pt")
    expected = zipr1.load(adapter)[0](**ids).logits
    plain = zipr1.load(base)[0](**ids).logits
    with servable(str(adapter)) as folder:
        assert not list(Path(folder).glob("adapter*"))
        merged = zipr1.load(folder)[0](**ids).logits
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)
    assert (merged - plain).abs().max() > 0.01
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--p", "1.5"], "p=1.5"),
        (["--port", "0"], "port=0"),
        (["--min_tokens=-1"], "min_tokens=-1"),
        (["--min_tokens", "some"], "--min_tokens: some: input should be a valid integer"),
        (["--", "--max-model-len", "5"], "give --max_model_len"),
        (["--", "--kv_transfer_config={}"], "give --p, --scope and --min_tokens"),
        (["--", "--enable-chunked-prefill"], "a sparse prompt is prefilled in one step"),
        (["--", "--kv-offloading-size=4"], "KV blocks of sparse prompts cannot be offloaded"),
        (["--tensor-parallel-size", "2"], "--tensor_parallel_size: no such option"),
    ],
)
def test_serve_names_a_bad_option(capsys, arguments, message):
    status, out, error = run(capsys, "serve", "zipr1/tiny", *arguments)
    assert status == 2 and out == "" and message in error


def test_serve_without_vllm_says_how_to_install_it():
    code = (
        "import sys; sys.modules['vllm'] = None\n"
        "from zipr1.cli.main import main\n"
        "main(['serve', 'zipr1/tiny'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "an environment of its own" in done.stderr and "serving.md" in done.stderr


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("read", [1, 15, 16, 17, 40, 64])
def test_tokens_after_the_prompt_find_their_place_over_the_hole(size, read):
    """For every number of kept tokens: no slot is used twice, none lies in an empty block."""
    new, width = 3 * size, 40
    table = torch.arange(100, 100 + width)[None]
    for most in range(1, read + 1):
        first, last = empty_blocks(most, read, size)
        freed = set(range(100 + first, 100 + last))
        blocks = -(-(read + new) // size)
        hole = torch.tensor([[first], [last - first]])
        compact = compact_table(table, hole)
        for count in {1, most}:  # a layer may keep fewer than the greediest one
            index = torch.arange(count + new)
            slots = slots_of(compact, torch.zeros_like(index), index, size)
            used = (slots // size).tolist()
            assert len(set(slots.tolist())) == count + new
            assert not freed & set(used)
            assert max(used) < 100 + blocks, "a block that the request was never given"


@pytest.mark.parametrize("methods", ["random", "full,fastv", "downsample"])
def test_eval_in_vllm_refuses_a_method_that_it_does_not_have(capsys, methods):
    arguments = ("--engine", "vllm", "--methods", methods)
    status, _, error = run(capsys, "eval", "zipr1/tiny", *arguments)
    assert status == 2 and "full, zipvl, topk" in error


def test_a_prompt_of_bench_serve_is_half_an_image_that_the_processor_shows():
    side, text = prompt_parts(tiny_processor(), 1000)
    assert (side, text) == (128, 1000 - 64), "a larger image would be shrunk to 64 tokens"
    assert prompt_parts(tiny_processor(), 100) == (112, 100 - 49)
