"""The process of `zipr1 serve`, without vLLM: signals, plugins, measuring model files."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import random_model, tiny_processor

from zipr1.common.errors import InputError, RunError
from zipr1.evaluation import vllm_engine
from zipr1.models.saving import save
from zipr1.vllm import serve
from zipr1.vllm.config import ServeConfig


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_server_that_a_signal_ends_is_an_error_that_names_it():
    kill = python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(RunError, match=r"ended by SIGKILL.*lower --max_model_len"):
        serve.run(kill, dict(os.environ))
    with pytest.raises(RunError, match="ended by SIGTERM"):  # not sent to zipr1
        serve.run(python("import os; os.kill(os.getpid(), 15)"), dict(os.environ))
    with pytest.raises(RunError, match="status 3"):
        serve.run(python("raise SystemExit(3)"), dict(os.environ))


def test_sigterm_goes_on_to_the_server_and_is_no_error():
    # The server, once it runs, has SIGTERM sent to zipr1.
    code = f"import os, time; os.kill({os.getpid()}, 15); time.sleep(60)"
    serve.run(python(code), dict(os.environ))


def test_sigterm_during_the_merge_removes_the_folder():
    code = """
import time
import zipr1.vllm.serve as serve
from zipr1.vllm.config import ServeConfig

def merge(adapter, folder):
    print(folder, flush=True)
    time.sleep(60)

serve.check_installed = lambda: None
serve.find_adapter = lambda model: object()
serve.merge = merge
serve.serve(ServeConfig("adapter"))
"""
    process = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    folder = Path(process.stdout.readline().strip())
    assert folder.is_dir()
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not folder.exists()


def test_plugins_that_zipr1_does_not_know_stay_loaded(monkeypatch):
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)

    def entry_points(group):
        return [SimpleNamespace(name=f"of {group}")]

    monkeypatch.setattr(serve.metadata, "entry_points", entry_points)
    assert "of vllm.io_processor_plugins" in serve.plugins().split(",")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kv-transfer-config.kv_connector_extra_config.defaults.p=1"], "give --p, --scope"),
        (["--kv_transfer_config.kv_role", "kv_both"], "give --p, --scope"),
        (["--kv-tr", "{}"], "give --p, --scope"),
        (["--enable-chunked"], "a sparse prompt is prefilled in one step"),
        (["--max_model", "77"], "give --max_model_len"),
        (["--config", "CONFIG"], "--max-model-len: set by zipr1 serve"),
        (["--headless"], "vLLM would ignore --headless"),
        (["--api_server_count=2"], "vLLM would ignore --api-server-count"),
        (["-asc", "2"], "vLLM would ignore --api-server-count"),
        (["--grpc"], "vLLM would ignore --grpc"),
        (["-dpm"], "vLLM would ignore --data-parallel-multi-port-external-lb"),
    ],
)
def test_a_flag_that_overrides_or_is_ignored_is_refused_in_every_spelling(
    tmp_path, arguments, message
):
    config = tmp_path / "more.yaml"
    config.write_text("block-size: 32\nmax-model-len: 77\n")
    arguments = [str(config) if one == "CONFIG" else one for one in arguments]
    with pytest.raises(InputError, match=message):
        ServeConfig("zipr1/tiny", vllm=arguments)


def test_other_flags_go_on_to_vllm():
    flags = ["--model-impl", "vllm", "--block-size=32", "-tp", "2", "-O3", "--grpc-port", "1"]
    flags += ["--compilation-config.mode", "3", "--api-key", "--config", "missing.yaml"]
    assert ServeConfig("zipr1/tiny", vllm=flags).vllm == flags


@pytest.mark.parametrize(
    "text", ["headless: false", "grpc:", "5", "model", "", "- a", "a: [", "\0"]
)
def test_what_a_configuration_file_leaves_as_it_is_goes_on_to_vllm(tmp_path, text):
    (tmp_path / "more.yaml").write_text(text)
    flags = ["--config", str(tmp_path / "more.yaml")]
    assert ServeConfig("zipr1/tiny", vllm=flags).vllm == flags


def test_the_engine_of_an_evaluation_needs_no_generation_config(tmp_path, monkeypatch):
    save(random_model("llama"), tiny_processor().tokenizer, tmp_path)
    (tmp_path / "generation_config.json").unlink()

    @contextmanager
    def running(*args, **options):
        yield None

    monkeypatch.setattr(vllm_engine, "check_installed", lambda: None)
    monkeypatch.setattr(vllm_engine, "running", running)
    with vllm_engine.vllm_engine(str(tmp_path), "attention") as (engine, _):
        sampled = engine.generation
    assert sampled.eos_token_id == random_model("llama").config.eos_token_id
