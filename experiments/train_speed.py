"""Sparse and dense post-training at the shape of Qwen2.5-VL-3B's decoder layers, on a CPU.

    python experiments/train_speed.py OUT --tokens 2048 --scope layer --steps 2 --repeats 2

Writes a random text model of few layers and prompts of `--tokens` random tokens, then runs `zipr1
bench train` on them, with the options that are not named here. Random weights attend evenly, so that
Top-p would keep nearly everything: a bias of the queries makes some tokens get most of the
attention, as in a trained model, and `--bias` sets how few hold it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from transformers import AutoModelForCausalLM, Qwen2Config

import zipr1
from zipr1.models.loading import tokenizer_of
from zipr1.models.shapes import shape_config


def write_model(folder: Path, layers: int, bias: float) -> None:
    text = shape_config("3b").get_text_config()
    tokenizer = tokenizer_of(zipr1.load("zipr1/tiny")[1])
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for layer in model.model.layers:
            heads = layer.self_attn.q_proj.bias.view(config.num_key_value_heads, -1, 128)
            heads[:] = bias * torch.randn(len(heads), 1, 128)  # alike where heads share a key
    zipr1.save(model, tokenizer, folder)


def write_rows(path: Path, tokens: int, count: int) -> None:
    tokenizer, rng = tokenizer_of(zipr1.load("zipr1/tiny")[1]), np.random.default_rng(0)
    words = [tokenizer.decode([number]) for number in range(300, 2000)]
    words = [word for word in words if word.isascii() and word.strip().isalpha()]
    lines = []
    for _ in range(count):
        text = " ".join(rng.choice(words, tokens))
        prompt = tokenizer.decode(tokenizer(text).input_ids[: tokens - 30])
        lines.append(json.dumps({"prompt": prompt, "answer": "yes"}))
    path.write_text("\n".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=2048, help="of a prompt")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--bias", type=float, default=5.0, help="of the queries")
    parser.add_argument("--scope", default="layer")
    arguments, more = parser.parse_known_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    write_model(out / "model", arguments.layers, arguments.bias)
    write_rows(out / "rows.jsonl", arguments.tokens, 8)
    recipe = {
        "model": str(out / "model"),
        "data": str(out / "rows.jsonl"),
        "probe_data": str(out / "rows.jsonl"),
        "scope": arguments.scope,
        "prompts_per_step": 1,
        "num_generations": 2,
        "dense_share": 0.0,
        "max_completion_length": 16,
        "gate": "none",
    }
    (out / "recipe.yaml").write_text(yaml.dump(recipe))
    command = ("bench", "train", str(out / "recipe.yaml"), "--threads", "2", *more)
    command += ("--output_dir", str(out))
    return subprocess.run([sys.executable, "-m", "zipr1.cli", *command], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
