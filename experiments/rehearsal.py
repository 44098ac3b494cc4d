"""A dress rehearsal on a CPU: Qwen2.5-VL's real configuration with random bfloat16 weights.

    python experiments/rehearsal.py OUT                       # 3B: 24 GB of memory, 8 GB of disk
    python experiments/rehearsal.py OUT --shape 7b --layers 2  # what depends on the shapes of 7B

Writes the model, unless an earlier rehearsal did, then runs the commands that a user would: an
answer, two questions of `eval`, a step of `train` with the recipes for one GPU (LoRA, gradient
checkpointing), Ctrl-C in the second, --resume and a third, and an answer of the adapter.
OUT/rehearsal.json has the seconds and the peak memory of each process, and what `zipr1 train --plan`
says of the training.
"""

import argparse
import json
import shutil
import signal
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
STOPPED = "train, Ctrl-C"


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
        part.size = {"shortest_edge": 56**2, "longest_edge": 3584**2}  # pixels, as Qwen's
    processor.save_pretrained(folder)


def write_rows(folder: Path, side: int) -> tuple[str, ...]:
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
    return (*flags, "--media_root", str(folder))


def commands(out: Path, model: Path, side: int, tokens: int) -> dict[str, tuple[str, ...]]:
    """By name. tokens: the length of a completion."""
    rows = write_rows(out / "rows", side)
    image, data = (str(out / "rows" / name) for name in ("data0.png", "data.jsonl"))
    prompt = (side // 28) ** 2 + 20  # about as many tokens of text
    ask = (*ZIPR1, "answer", image, "What is it?", "--dtype", "bfloat16", "--max_new_tokens", "4")
    few = ("--questions", "2", "--batch_size", "1", "--max_new_tokens", "4")
    train = (*ZIPR1, "train", "qwen_vl", "--config", "qwen_lora_24gb", "--model", str(model), *rows)
    train += ("--prompts_per_step", "1", "--num_generations", "2", "--dense_share", "0")
    train += ("--max_completion_length", str(tokens), "--max_pixels", str(side**2))
    train += ("--max_steps", "3", "--save_steps", "1", "--probe_every", "100", "--threads", "2")
    train += ("--output_dir", str(out / "train"))
    return {
        "answer": (*ask, "--model", str(model)),
        "eval": (*ZIPR1, "eval", str(model), "--data", data, *few, "--output_dir", f"{out}/eval"),
        "plan": (*train, "--plan", "--prompt", str(prompt), "--ratio", "0.8", "--json"),
        STOPPED: train,
        "train, resumed": (*train, "--resume"),
        "answer, adapter": (*ask, "--model", str(out / "train" / "final")),
    }


def peak_of(pid: int) -> int:
    """Bytes that a running process has had in memory at most (Linux); 0 while it ends. Not its
    ru_maxrss, which has the memory of the process that started it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def run(name: str, command: tuple[str, ...], log: Path, stop: Path | None) -> dict:
    """Exit status, seconds and peak memory of the command, and the end of its output. It gets a
    Ctrl-C once `stop` exists."""
    began, peak = time.monotonic(), 0
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    while process.poll() is None:
        peak = max(peak, peak_of(process.pid))
        if stop is not None and stop.exists():
            process.send_signal(signal.SIGINT)
            stop = None
        time.sleep(0.1)
    row = {"part": name, "command": " ".join(command), "status": process.returncode}
    row |= {"seconds": round(time.monotonic() - began, 1)}
    row |= {"peak_gb": round(peak / 1e9, 2), "output": log.read_text()[-4000:]}
    print(
        f"{name}: status {row['status']}, {row['seconds']} s, peak {row['peak_gb']} GB", flush=True
    )
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", default="3b")
    parser.add_argument("--layers", type=int, help="of the decoder; all of them unless given")
    parser.add_argument("--side", type=int, default=280, help="pixels; 28 x 28 are a visual token")
    parser.add_argument("--completion", type=int, default=8, help="tokens of a rollout")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    for name in ("rows", "eval", "train"):
        shutil.rmtree(out / name, ignore_errors=True)
    model = out / f"model-{arguments.shape}-{arguments.layers or 'all'}"
    if not model.exists():
        write_model(arguments.shape, arguments.layers, out / "partial")
        (out / "partial").rename(model)
    rows = []
    for name, command in commands(out, model, arguments.side, arguments.completion).items():
        stop = out / "train" / "checkpoint-1" if name == STOPPED else None
        rows.append(run(name, command, out / "log.txt", stop))
        (out / "rehearsal.json").write_text(json.dumps({"rows": rows} | provenance(), indent=1))
        if rows[-1]["status"] != (130 if name == STOPPED else 0):
            print(rows[-1]["output"], file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
