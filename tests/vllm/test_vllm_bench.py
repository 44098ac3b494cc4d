"""`zipr1 bench serve` against a real server."""

import json

import pytest
import vllm_engine as v  # noqa: F401 - sets the environment of the engine
from command_line import run

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_it_times_dense_and_sparse_and_counts_blocks(capsys, tmp_path):
    sizes = ("--tokens", "512", "--concurrency", "2", "--ratios", "0.25", "--scopes", "layer")
    runs = ("--requests", "2", "--rounds", "1", "--answer", "40", "--kv_mib", "64")
    out = ("--output_dir", str(tmp_path), "--json")
    status, text, error = run(capsys, "bench", "serve", "zipr1/tiny", *sizes, *runs, *out)
    assert status == 0, error
    dense, sparse = json.loads(text)
    assert (dense["ratio"], sparse["ratio"], sparse["scope"]) == (1.0, 0.25, "layer")
    assert dense["ttft_speedup"] == dense["throughput"] == dense["ttft_bound"] == 1
    assert dense["prompt_tokens"] == sparse["prompt_tokens"] == pytest.approx(512, rel=0.1)
    assert sparse["ttft_bound"] > 2 and sparse["median_ttft_ms"] > 0
    assert sparse["fits"] > 1.5, "blocks were given back"
    assert json.loads((tmp_path / "serve.json").read_text())["kind"] == "bench serve"
    assert (
        "never below dense" in (tmp_path / "serve.md").read_text()
        or "below dense at every" in (tmp_path / "serve.md").read_text()
    )
