"""`zipr1 bench`: what it counts. Measured times belong in docs/results.md, not in a test."""

import csv
import json

import pytest
import torch
import transformers

from zipr1.bench import phases
from zipr1.bench.bench import break_even, selection_costs
from zipr1.bench.config import BenchConfig
from zipr1.bench.model import build
from zipr1.cli.main import main
from zipr1.common.scope import SCOPES


def test_the_rows_of_a_small_bench(capsys, tmp_path):
    flags = (
        "--tokens",
        "64,128",
        "--ratios",
        "0.25,1",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--rules",
        "topk,downsample",
    )
    main(["bench", "--json", "--decode_batches", "2", "--output_dir", str(tmp_path), *flags])
    rows = json.loads(capsys.readouterr().out)
    prefill = [row for row in rows if row["phase"] == "prefill"]
    assert {(r["tokens"], r["rule"], r["ratio"], r["scope"]) for r in prefill} == {
        (tokens, rule, ratio, scope)
        for tokens in (64, 128)
        for ratio in (0.25, 1)
        for rule, scope in (*(("topk", scope) for scope in SCOPES), ("downsample", "input"))
    } | {(tokens, "min_tokens", 1, "attention") for tokens in (64, 128)}
    for row in prefill:
        assert (
            row["dense_bytes"] == 2 * 2 * 128 * 4 * row["tokens"]
        )  # keys and values, 2 heads of 128, 4 bytes
        assert row["sparse_bytes"] == row["ratio"] * row["dense_bytes"]
    for row in rows:
        assert row["share_of_bound"] == pytest.approx(row["speedup"] / row["bound"])
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
    attention = [row for row in rows if row["phase"] == "attention" and row["ratio"] == 0.25]
    assert {(row["scope"], row["bound"]) for row in attention} == {("attention", 16), ("keys", 4)}
    decode = [row for row in rows if row["phase"] == "decode"]
    assert [(row["tokens"], row["batch"], row["ratio"]) for row in decode] == [
        (64, 2, 0.25),
        (128, 2, 0.25),
    ]
    with (tmp_path / "bench.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows) and {row["transformers"] for row in table} == {
        transformers.__version__
    }
    needed = (
        "device shape tokens ratio scope phase dense_ms sparse_ms speedup bound share_of_bound "
    )
    needed += "dense_bytes sparse_bytes"
    assert all(set(needed.split()) <= row.keys() for row in rows)
    saved = json.loads((tmp_path / "bench.json").read_text())
    assert saved["rows"] == rows and saved["versions"]["torch"]
    assert (tmp_path / "bench.png").stat().st_size > 5000


def test_the_time_to_first_token_has_all_parts(capsys, tmp_path):
    flags = ["--phases", "ttft", "--tokens", "64", "--ratios", "0.25,1", "--repeats", "1"]
    main(["bench", "--json", "--threads", "1", "--output_dir", str(tmp_path), *flags])
    rows = json.loads(capsys.readouterr().out)
    assert {(row["media"], row["rule"], row["scope"]) for row in rows} == {
        (media, rule, scope)
        for media in ("image", "video")
        for rule, scope in (*(("topk", scope) for scope in SCOPES), ("downsample", "input"))
    }
    for row in rows:
        assert row["speedup"] == pytest.approx(row["dense_ms"] / row["sparse_ms"])
        assert row["share_of_bound"] == pytest.approx(row["speedup"] / row["bound"])
        # The tower costs as much before and after, unless the input is smaller.
        assert 0 < row["vision_ms"] < row["dense_ms"]
        if row["rule"] == "topk":
            assert row["sparse_ms"] > row["vision_ms"] and row["same_time"] >= 0
    bounds = {(row["media"], row["scope"]): row["bound"] for row in rows}
    # 36 layers of 77.07M weights at 64 tokens; 32 blocks of 19.69M weights at 256 patches.
    tower = 32 * 256 * 2 * 19_686_400 + 256 * 4 * 1280 * (4 * 256 + 28 * 64)
    decoder, attention = 36 * 2 * 64 * 77_070_336, 36 * 4 * 2048 * 64 * 64 / 2
    keys = 36 * 2 * 64 * 2048 * 256
    sparse = keys + decoder / 4 + attention / 16
    expected = (tower + decoder + attention) / (tower + sparse)
    assert bounds["image", "layer"] == pytest.approx(expected)
    assert bounds["image", "input"] > 3.9 and bounds["image", "keys"] < 1.01


def test_break_even_is_where_sparse_stays_ahead():
    rows = [
        {
            "phase": "prefill",
            "rule": "topk",
            "ratio": 0.25,
            "scope": "layer",
            "tokens": tokens,
            "speedup": speedup,
        }
        for tokens, speedup in ((512, 1.2), (1024, 0.9), (2048, 1.1), (4096, 2.0))
    ]
    assert break_even(rows, 0.25, "layer") == 2048  # not 512: slower again at 1,024
    assert break_even(rows[:2], 0.25, "layer") is None


def test_what_the_selection_costs_is_a_fraction_of_the_sparse_layers():
    choice = {"phase": "attention", "rule": "topk", "ratio": 0.25, "tokens": 512, "choice_ms": 2.0}
    prefill = {
        "phase": "prefill",
        "rule": "topk",
        "ratio": 0.25,
        "tokens": 512,
        "scope": "layer",
        "sparse_ms": 80.0,
        "layers": 4,
    }
    assert selection_costs([choice, prefill, prefill | {"ratio": 0.5}]) == [
        f"Selection of tokens by Top-p at 512 tokens, ratio {ratio}, scope layer: 2.0 ms, 10.0% of "
        "the sparse layer"
        for ratio in (0.25, 0.5)
    ]


def test_fastv_keeps_all_then_a_fraction_and_the_vision_tower_is_timed(capsys, tmp_path):
    flags = (
        "--tokens",
        "64",
        "--ratios",
        "0.25",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--phases",
        "prefill,vision",
    )
    main(
        [
            "bench",
            "--json",
            "--rules",
            "fastv,recent",
            "--layers",
            "4",
            "--output_dir",
            str(tmp_path),
            *flags,
        ]
    )
    rows = json.loads(capsys.readouterr().out)
    sizes = {
        row["rule"]: row["sparse_bytes"] / row["dense_bytes"]
        for row in rows
        if row["phase"] == "prefill"
    }
    assert sizes == {"fastv": (2 + 2 * 0.25) / 4, "recent": 0.25, "min_tokens": 1}
    towers = [row for row in rows if row["phase"] == "vision"]
    assert [(row["rule"], row["media"]) for row in towers] == [
        ("none", "image"),
        ("reuse_frames", "video"),
    ]


def test_half_of_the_frames_of_the_timed_video_are_computed(monkeypatch):
    seen = []

    def paired(dense, sparse, repeats, device, block):
        with block() as count:
            sparse()
        seen.append(count)
        return {"speedup": 2.0}

    monkeypatch.setattr(phases, "paired", paired)
    model = build("3b", 1, True, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        row = phases.vision_rows(model, 512, [0.25], BenchConfig(threads=1))[1]
    assert (row["tokens"], row["ratio"], row["bound"]) == (512, 0.5, 2.0)
    assert (seen[1].given, seen[1].computed) == (2, 1)


@pytest.mark.parametrize(
    ("flag", "value", "word"),
    [
        ("--rules", "golf", "golf"),
        ("--rules", "prefill", "'prefill' is none of topk"),
        ("--phases", "topk", "'topk' is none of attention"),
        ("--rules", "fastv", "layers=1"),
        ("--ratios", "1.5", "ratio=1.5"),
        ("--tokens", "0", "at least 1"),
    ],
)
def test_what_cannot_be_timed_says_so(capsys, flag, value, word):
    with pytest.raises(SystemExit) as stop:
        main(["bench", flag, value])
    assert stop.value.code == 2 and word in capsys.readouterr().err
