"""What one GPU has to show, in one command of at most eight minutes and without a network.

    python benchmarks/gpu_check.py OUT           # on a machine with a GPU
    python benchmarks/gpu_check.py OUT --small   # the same parts with one layer, on a CPU

Parts: the tests that need CUDA (the varlen kernel among them), `zipr1 bench` with all layers of the
3B and of the 7B shape (attention, prefill, decode, time to first token), and one LoRA step of
`zipr1 train` on a random 3B model. OUT/check.json is written after each part: its command, exit
status, seconds and the end of its output; the tables are in the folders beside it.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from zipr1.bench.config import SHAPES
from zipr1.bench.serving_model import write_model
from zipr1.common.provenance import provenance

ZIPR1 = (sys.executable, "-m", "zipr1.cli")
TESTS = Path(__file__).parents[1] / "tests" / "sparsity"


def parts(out: Path, small: bool) -> list[tuple[str, int, tuple[str, ...]]]:
    """(name, seconds that it may take, command) in the order of their worth."""
    model = str(out / "model")
    bench = ("--ratios", "0.25", "--repeats", "1" if small else "3")
    size = {"3b": ("4096,16384,65536", 150), "7b": ("4096,16384", 90)}
    if small:
        size = {"3b": ("256", 600), "7b": ("128", 600)}
        bench += ("--layers", "1", "--threads", "1", "--decode_batches", "1,2")
    else:
        bench += ("--decode_batches", "1,8,32")
    tests = (str(TESTS / "test_varlen.py"),) if small else ("-m", "gpu", str(TESTS))
    found = [("tests", 90, (sys.executable, "-m", "pytest", "-q", *tests))]
    for shape, (tokens, seconds) in size.items():
        flags = ("--shape", shape, "--tokens", tokens, "--output_dir", str(out / f"bench_{shape}"))
        found.append((f"bench {shape}", seconds, (*ZIPR1, "bench", *bench, *flags)))
    flags = (*bench, "--phases", "ttft", "--output_dir", str(out / "ttft"))
    flags += ("--tokens", "64" if small else "1024,4096")
    found.append(("ttft", 600 if small else 60, (*ZIPR1, "bench", *flags)))
    step = (*ZIPR1, "train", "tiny_demo", "--model", model, "--max_steps", "1")
    step += ("--use_peft", "true", "--probe_per_task", "1", "--output_dir", str(out / "train"))
    found.append(("train", 600 if small else 120, step))
    return found


def run(name: str, seconds: float, command: tuple[str, ...]) -> dict:
    """The command's exit status, None where it took longer, its seconds and the end of its output."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
        )
        status, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as expired:
        status, text = None, (expired.stdout or b"").decode(errors="replace")
    row = {"part": name, "command": " ".join(command), "status": status}
    return row | {"seconds": round(time.monotonic() - began, 1), "output": text[-6000:]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true", help="one layer of each shape, on a CPU")
    parser.add_argument("--seconds", type=int, default=480, help="of all parts together, on a GPU")
    arguments = parser.parse_args()
    if not arguments.small and not torch.cuda.is_available():
        parser.error("no GPU: give --small for a dry run on a CPU")
    out, began = arguments.out, time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    dtype = torch.float32 if arguments.small else torch.bfloat16
    write_model("3b", 1 if arguments.small else SHAPES["3b"]["layers"], out / "model", dtype)
    rows = []
    for name, seconds, command in parts(out, arguments.small):
        left = arguments.seconds - (time.monotonic() - began)
        rows.append(run(name, seconds if arguments.small else max(min(seconds, left), 1), command))
        print(f"{name}: status {rows[-1]['status']}, {rows[-1]['seconds']} s", flush=True)
        report = {"rows": rows, "small": arguments.small} | provenance()
        (out / "check.json").write_text(json.dumps(report, indent=1))
    return int(any(row["status"] != 0 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
