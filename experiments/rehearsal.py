"""A dress rehearsal on a CPU: Qwen2.5-VL's real configuration with random bfloat16 weights.

    python experiments/rehearsal.py OUT                       # 3B: 24 GB of memory, 8 GB of disk
    python experiments/rehearsal.py OUT --shape 7b --layers 2  # what depends on the shapes of 7B

Writes the model, then runs the commands that a user would: an answer, two questions of `eval`, two
steps of `train` with the recipes for one GPU (LoRA, gradient checkpointing), the second of them
after --resume, and an answer of the adapter. OUT/rehearsal.json has the seconds and the peak memory
of each process, and what `zipr1 train --plan` says of the training.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from zipr1.common.provenance import provenance
from zipr1.models.loading import load_config
from zipr1.models.location import EMBEDDED
from zipr1.models.shapes import shape_config

ZIPR1 = (sys.executable, "-m", "zipr1.cli")
TINY = "zipr1/tiny"


def write_model(shape: str, layers: int | None, folder: Path) -> None:
    """Random weights, with the tokenizer of zipr1/tiny, whose tokens are fewer than the model's."""
    config = shape_config(shape)
    for name, value in load_config(TINY).to_dict().items():
        if name.endswith("_token_id"):
            setattr(config, name, value)
    if layers is not None:
        config.text_config.num_hidden_layers = layers
        config.text_config.layer_types = config.text_config.layer_types[:layers]
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = load_config(TINY).get_text_config().eos_token_id
    model.save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(EMBEDDED[TINY])
    for part in (processor.image_processor, processor.video_processor):
        part.patch_size = config.vision_config.patch_size
    processor.save_pretrained(folder)


def write_rows(folder: Path, side: int) -> list[str]:
    """The flags for rows of a noise image each, of `side` pixels."""
    folder.mkdir()
    rng, flags = np.random.default_rng(0), []
    for name, count in (("data", 4), ("probe_data", 1)):
        rows = []
        for number in range(count):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
            row = {"image": f"{name}{number}.png", "prompt": "What is it?", "answer": "noise"}
            rows.append(json.dumps(row))
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
        flags += [f"--{name}", str(folder / f"{name}.jsonl")]
    return flags


def commands(out: Path, side: int, tokens: int) -> list[tuple[str, tuple[str, ...]]]:
    """(name, command). tokens: the length of a completion."""
    model, image = str(out / "model"), str(out / "rows" / "data0.png")
    rows = write_rows(out / "rows", side)
    ask = (image, "What is it?", "--dtype", "bfloat16", "--max_new_tokens", "4")
    data = ("--data", str(out / "rows" / "data.jsonl"), "--questions", "2", "--batch_size", "1")
    data += ("--max_new_tokens", "4")
    prompt = (side // 28) ** 2 + 20  # about as many tokens of text
    train = (*ZIPR1, "train", "qwen_vl", "--config", "qwen_lora_24gb", "--model", model, *rows)
    train += ("--prompts_per_step", "1", "--num_generations", "2", "--dense_share", "0")
    train += ("--max_completion_length", str(tokens), "--save_steps", "1", "--probe_every", "0")
    train += ("--max_pixels", str(side**2), "--threads", "2", "--output_dir", str(out / "train"))
    return [
        ("answer", (*ZIPR1, "answer", *ask, "--model", model)),
        ("eval", (*ZIPR1, "eval", model, *data, "--output_dir", str(out / "eval"))),
        ("plan", (*train, "--plan", "--prompt", str(prompt), "--ratio", "0.8", "--json")),
        ("train, step 1", (*train, "--max_steps", "1")),
        ("train, step 2", (*train, "--max_steps", "2", "--resume")),
        ("answer, adapter", (*ZIPR1, "answer", *ask, "--model", str(out / "train" / "final"))),
    ]


def run(name: str, command: tuple[str, ...]) -> dict:
    """Exit status, seconds and peak memory of the command, and the end of its output."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        output = process.stdout.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    row = {"part": name, "command": " ".join(command), "status": process.returncode}
    row |= {"seconds": round(time.monotonic() - began, 1)}
    return row | {"peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2), "output": output[-4000:]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="empty, or with the model of an earlier rehearsal")
    parser.add_argument("--shape", default="3b")
    parser.add_argument("--layers", type=int, help="of the decoder; all of them unless given")
    parser.add_argument("--side", type=int, default=448, help="pixels; 28 x 28 are a visual token")
    parser.add_argument("--completion", type=int, default=8, help="tokens of a rollout")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "model").exists():
        write_model(arguments.shape, arguments.layers, out / "model")
    rows = []
    for name, command in commands(out, arguments.side, arguments.completion):
        rows.append(run(name, command))
        print(f"{name}: status {rows[-1]['status']}", end=", ")
        print(f"{rows[-1]['seconds']} s, peak {rows[-1]['peak_gb']} GB", flush=True)
        (out / "rehearsal.json").write_text(json.dumps({"rows": rows} | provenance(), indent=1))
    return int(any(row["status"] != 0 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
