"""What `zipr1 bench serve` makes of the server's gauges; the server itself: tests/vllm."""

import json
import time

from zipr1.bench.config import BenchServeConfig
from zipr1.bench.serving import kv_per_request, measure, middle_of, sampled, table
from zipr1.common.documents import write_document
from zipr1.models.flops import Shape
from zipr1.models.loading import load_config

ROW = {
    "tokens": 4096,
    "concurrency": 1,
    "ratio": 0.25,
    "scope": "layer",
    "median_ttft_ms": 4520.0,
    "ttft_speedup": 2.9,
    "ttft_bound": 4.21,
    "median_tpot_ms": 24.6,
    "request_throughput": 0.218,
    "throughput": 2.87,
    "kv_in_use": 0.25,
}


def test_a_request_that_was_not_seen_running_has_no_number(tmp_path):
    """A prompt of seconds and four tokens ended between two readings of the gauges."""
    assert kv_per_request([(0.0, 0.0), (0.5, 2.0), (0.1, 1.0), (0.3, 0.0)]) == 0.1
    assert kv_per_request([(0.0, 1.0), (0.3, 0.0)]) is None and kv_per_request([]) is None
    assert middle_of([0.5, None, 0.1, 0.2]) == 0.2 and middle_of([None]) is None
    unknown = ROW | {"fits": None}
    assert "| 2.87 | - | 25% |" in table([unknown])
    assert "| 2.87 | 3.50 x | 25% |" in table([ROW | {"fits": 3.5}])
    write_document(tmp_path / "serve.json", "bench serve", {"rows": [unknown]})
    assert json.loads((tmp_path / "serve.json").read_text())["rows"][0]["fits"] is None


def test_dense_finds_the_image_caches_as_full_as_sparse_at_every_point():
    """vLLM keeps the images of a run: the first run of a prompt length is not counted."""
    calls, names = [], ("median_ttft_ms", "median_tpot_ms", "request_throughput")

    class Client:
        def run(self, *case):
            calls.append(case)
            return dict.fromkeys(names, 1.0) | {"kv_per_request": None, "kv_in_use": None}

    config = BenchServeConfig(tokens="256,512", scopes="attention", concurrency="1", rounds=1)
    rows = measure(config, Shape.of(load_config("zipr1/tiny").get_text_config()), Client())
    dense, sparse = (1.0, "attention"), (0.25, "attention")
    assert calls == [(t, 1, *case) for t in (256, 512) for case in (dense, dense, sparse)]
    assert len(rows) == 4


def test_the_table_says_that_dense_runs_eagerly():
    assert table([ROW | {"fits": None}]).startswith("Dense and sparse run with `--enforce-eager`")


def test_a_server_that_resets_a_connection_is_asked_again():
    class Server:
        asked = 0

        def gauges(self):
            self.asked += 1
            if self.asked == 1:
                raise ConnectionResetError
            return 0.5, 1.0

    with sampled(server := Server()) as usage:
        end = time.monotonic() + 60
        while server.asked < 2 and time.monotonic() < end:
            time.sleep(0.1)
    assert usage[0] == (0.5, 1.0)
