"""What `zipr1 bench serve` makes of the server's gauges; the server itself: tests/vllm."""

import json

from zipr1.bench.serving import kv_per_request, middle_of, table
from zipr1.common.documents import write_document

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
