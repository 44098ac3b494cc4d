"""zipr1 compared with kvpress (NVIDIA): one text decoder, one token ratio, separate environments.

    python benchmarks/compare_kvpress.py --engine zipr1             # the environment of zipr1
    uv venv .venv-kvpress
    uv pip install --python .venv-kvpress/bin/python kvpress==0.5.5  # needs transformers < 5.3
    .venv-kvpress/bin/python benchmarks/compare_kvpress.py --engine kvpress

Random weights in the shape of a Qwen2.5-3B decoder. Each engine is timed against its own dense
model in the same process, alternating; medians. Comparable across environments are the speed-up,
the bytes of the KV cache and the peak memory of the process.
"""

import argparse
import json
import re
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
import transformers
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM


def build(layers: int) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=256, hidden_size=2048, intermediate_size=11008, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=2, max_position_embeddings=32768,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).requires_grad_(False).eval()


def context_of(engine: str, ratio: float, scope: str, model):
    if engine == "dense":
        return nullcontext()
    if engine == "kvpress":
        from kvpress import SnapKVPress

        return SnapKVPress(compression_ratio=1 - ratio)(model)
    import zipr1

    return zipr1.sparse(model, zipr1.TopK(ratio), scope=scope)


def resident(name: str) -> int:
    """Resident bytes of this process: VmRSS now, VmHWM the peak since `run` reset it."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def run(
    model, ids: torch.Tensor, engine: str, ratio: float, scope: str, steps: int
) -> tuple[float, float, int, int]:
    """Milliseconds of prefill and of a decode step; bytes of the KV cache and of peak memory."""
    cache = DynamicCache()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak to the current value
    before = resident("VmRSS")
    with torch.no_grad(), context_of(engine, ratio, scope, model):
        began = time.perf_counter()
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        prefill = time.perf_counter() - began
        size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        began = time.perf_counter()
        for step in range(steps):
            position = torch.full((len(ids), 1), ids.shape[1] + step)
            model(ids[:, :1], past_key_values=cache, use_cache=True, position_ids=position)
        decode = (time.perf_counter() - began) / steps
    return 1000 * prefill, 1000 * decode, size, resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=("zipr1", "kvpress"), required=True)
    parser.add_argument("--tokens", default="2048,4096")
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build(arguments.layers)
    for tokens in map(int, arguments.tokens.split(",")):
        ids = torch.randint(
            0, 256, (arguments.batch, tokens), generator=torch.Generator().manual_seed(0)
        )
        for scope in ("attention", "layer") if arguments.engine == "zipr1" else ("cache",):
            found: dict[str, list] = {"dense": [], arguments.engine: []}
            for repeat in range(arguments.repeats + 1):
                for engine in found:
                    times = run(model, ids, engine, arguments.ratio, scope, arguments.steps)
                    if repeat:  # the first is a warm-up
                        found[engine].append(times)
            medians = {
                engine: [median(column) for column in zip(*rows, strict=True)]
                for engine, rows in found.items()
            }
            dense, ours = medians["dense"], medians[arguments.engine]
            print(
                json.dumps(
                    {
                        "engine": arguments.engine, "scope": scope,
                        "transformers": transformers.__version__,
                        "torch": torch.__version__, "tokens": tokens,
                        "batch": arguments.batch, "ratio": arguments.ratio,
                        "prefill_ms": round(ours[0], 1),
                        "prefill_speedup": round(dense[0] / ours[0], 2),
                        "decode_ms": round(ours[1], 1),
                        "decode_speedup": round(dense[1] / ours[1], 2),
                        "kv_bytes": int(ours[2]), "kv_share": round(ours[2] / dense[2], 3),
                        "peak_mb": round(ours[3] / 1e6, 1),
                        "dense_peak_mb": round(dense[3] / 1e6, 1),
                    }
                ),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
