"""Hundreds of damaged model folders, adapters and training checkpoints through `zipr1 answer` and
`zipr1 train --resume`: each is refused in one line, or what is loaded is what the files hold."""

import json
import random
import shutil
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
import torch
from fuzz import changed, check, mutated, outcomes
from PIL import Image
from safetensors.torch import load_file
from train_runs import SMALL

from zipr1.cli.main import main
from zipr1.models.adapters import find_adapter
from zipr1.models.loading import load
from zipr1.models.saving import save
from zipr1.training.config import TrainConfig
from zipr1.training.train import train

TRAIN = SMALL | {"max_steps": 2, "save_steps": 1, "num_generations": 2, "probe_per_task": 1}


@cache
def whole(kind: str, folder: str) -> Path:
    """A folder that works, made once in each process."""
    torch.set_num_threads(1)
    place = Path(folder) / f"whole-{kind}-{random.Random().randrange(10**12)}"
    if kind == "models":
        save(*load("zipr1/tiny"), place, {"p": 0.9, "scope": "layer"})
    else:
        config = TrainConfig(**TRAIN, output_dir=str(place), use_peft=kind == "adapters")
        train(config, quiet=True)
        if kind == "checkpoints":
            shutil.rmtree(place / "final")
    return place / "final" if kind == "adapters" else place


def damage(folder: Path, rng: random.Random) -> Path:
    """Changes one file below the folder; returns it."""
    path = rng.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    content, kind = path.read_bytes(), rng.randrange(10)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.unlink()
        path.mkdir()
    elif kind == 2:
        path.write_bytes(b"")
    elif kind < 7 and path.suffix == ".json":
        tree = json.loads(content)
        for _ in range(rng.choice([1, 1, 2])):
            tree = changed(tree, rng)
        path.write_text(json.dumps(tree), encoding="utf-8", errors="surrogatepass")
    else:
        path.write_bytes(mutated(content, rng))
    return path


def command(*arguments: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr); an exception that is a bug is raised."""
    out, err, status = StringIO(), StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as stop:
            status = stop.code or 0
    return status, out.getvalue(), err.getvalue()


def one_line(status: int, err: str) -> str:
    """ "refused", or what is wrong with an error."""
    lines = [line for line in err.splitlines() if line.startswith("zipr1: error: ")]
    if status not in (1, 2) or len(lines) != 1 or len(lines[0]) > 2000:
        return f"status {status}: {err[-300:]}"
    return "refused"


def try_model(folder: str, seed: int) -> str:
    """A folder of a model, or of an adapter."""
    return try_answer("models", folder, seed)


def try_adapter(folder: str, seed: int) -> str:
    return try_answer("adapters", folder, seed)


def try_answer(kind: str, folder: str, seed: int) -> str:
    rng = random.Random(seed)
    copy = Path(folder) / f"{kind}-{seed}"
    shutil.copytree(whole(kind, folder), copy)
    path = damage(copy, rng)
    image = Path(folder) / f"{seed}.png"
    Image.new("RGB", (64, 48), "red").save(image)
    arguments = ("answer", str(image), "What?", "--model", str(copy), "--max_new_tokens", "2")
    status, out, err = command(*arguments, "--json")
    try:
        if status:
            return one_line(status, err)
        found = json.loads(out)
        trained = copy / "zipr1.json"
        p = json.loads(trained.read_bytes()).get("p", 0.975) if trained.is_file() else 0.975
        if found["p"] != p:
            return f"{path.name}: p = {p} became {found['p']}"
        return same_weights(copy)
    finally:
        shutil.rmtree(copy)
        image.unlink()


def same_weights(folder: Path) -> str:
    """Whether the weights of a loaded folder are those of its safetensors file."""
    model = load(folder)[0]
    file = next(folder.glob("*.safetensors"))
    stored = load_file(file)
    if find_adapter(folder) is not None:
        lora = sum("lora_" in name for name, _ in model.named_parameters())
        return "accepted" if lora == len(stored) else f"{lora} of {len(stored)} tensors"
    model.save_pretrained(folder / "again")
    again = load_file(folder / "again" / "model.safetensors")
    if again.keys() != stored.keys():
        return f"other names: {sorted(again.keys() ^ stored.keys())[:3]}"
    for name, tensor in stored.items():
        if not torch.equal(again[name].float().nan_to_num(), tensor.float().nan_to_num()):
            return f"{name} is not what the file holds"
    return "accepted"


def try_checkpoint(folder: str, seed: int) -> str:
    """The folder of a training that is to be resumed from its last checkpoint."""
    rng = random.Random(seed)
    copy = Path(folder) / f"run-{seed}"
    shutil.copytree(whole("checkpoints", folder), copy)
    damage(copy, rng)
    flags = [
        f"--{name}={','.join(value) if isinstance(value, list) else value}"
        for name, value in TRAIN.items()
    ]
    try:
        status, _, err = command("train", *flags, f"--output_dir={copy}", "--resume")
        if status:
            return one_line(status, err)
        return "accepted" if (copy / "final" / "model.safetensors").is_file() else "no final/"
    finally:
        shutil.rmtree(copy)


KINDS = {"models": try_model, "adapters": try_adapter, "checkpoints": try_checkpoint}


@pytest.mark.parametrize("kind", KINDS)
def test_some_damaged_folders_are_refused_or_what_they_hold(kind, tmp_path):
    check(outcomes(KINDS[kind], tmp_path, 6, processes=1), ("accepted", "refused"), least=-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"), [("models", 1800), ("adapters", 800), ("checkpoints", 400)]
)
def test_damaged_folders_are_refused_or_what_they_hold(kind, count, tmp_path):
    check(outcomes(KINDS[kind], tmp_path, count, seeds=100))
