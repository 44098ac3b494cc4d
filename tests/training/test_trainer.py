"""`zipr1.Trainer`: names or loaded objects, and the same run as `zipr1 train`."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from importlib.util import find_spec
from pathlib import Path

import data_rows
import datasets
import pytest
import torch
from command_line import run
from safetensors.torch import load_file
from task_rows import shapes_rows, write_jsonl
from train_runs import SMALL, command, metrics
from transformers import TrainerCallback

import zipr1
from zipr1.common.documents import write_document
from zipr1.common.errors import InputError

cache = data_rows.cache  # a fixture
SETTINGS = {
    "max_steps": 2, "prompts_per_step": 2, "num_generations": 2, "probe_per_task": 2,
    "baseline": "group", "probe_every": 1,
}  # fmt: skip


def length(completions, level, **columns):
    """TRL's signature; not a grader."""
    return [float(len(one[0]["content"]) > 3) for one in completions]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """(rows to train on, rows to measure on), in the current folder."""
    monkeypatch.chdir(tmp_path)
    return shapes_rows(tmp_path, 4, "train"), shapes_rows(tmp_path, 2, "val")


def same(one: Path, other: Path) -> None:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_objects_names_and_the_command_are_the_same_run(capsys, tmp_path, rows):
    train, held = rows
    paths = write_jsonl(tmp_path / "train.jsonl", train), write_jsonl(tmp_path / "val.jsonl", held)
    (tmp_path / "lengths.py").write_text(
        "def length(completions, **columns):\n"
        "    return [float(len(one[0]['content']) > 3) for one in completions]\n"
    )
    trainer = zipr1.Trainer(
        model=zipr1.load("zipr1/tiny")[0],
        args=zipr1.TrainConfig(output_dir="objects", **SETTINGS),
        train_dataset=datasets.Dataset.from_list(train),
        eval_dataset=datasets.Dataset.from_list(held),
        reward_funcs=length,
    )
    first = trainer.train(quiet=True)
    assert [row["step"] for row in trainer.log_history] == [0, 1, 2]
    assert "zipr1" not in capsys.readouterr().err
    second = zipr1.Trainer(
        "zipr1/tiny", zipr1.TrainConfig(output_dir="names", **SETTINGS), *paths, "lengths.py:length"
    ).train(quiet=True)
    same(first, second)
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    flags += [f"--data={paths[0]}", f"--probe_data={paths[1]}", "--output_dir=flags"]
    status, out, _ = run(capsys, "train", *flags, "--reward_function", "lengths.py:length")
    assert status == 0 and out.strip() == "flags/final"
    same(first, Path("flags/final"))
    settings = json.loads(Path("objects/run.json").read_text())["config"]
    assert settings["data"] == "Dataset of 4 rows (prompt, image, answer, level)"
    assert settings["reward_function"].endswith("test_trainer:length")


def test_a_dataset_with_images_in_memory(tmp_path, rows):
    train, held = (
        datasets.Dataset.from_list(part).cast_column("image", datasets.Image()) for part in rows
    )
    trainer = zipr1.Trainer(
        args=zipr1.TrainConfig(output_dir="run", **SETTINGS | {"max_steps": 1}),
        train_dataset=train, eval_dataset=held,
    )  # fmt: skip
    final = trainer.train(quiet=True)
    assert trainer.log_history[-1]["failed_rows"] == 0 and (final / "zipr1.json").exists()


def test_a_loaded_model_is_resumed_with_itself_as_the_reference(tmp_path, rows):
    train, held = map(datasets.Dataset.from_list, rows)
    sets = {"train_dataset": train, "eval_dataset": held}

    def trainer(**settings) -> zipr1.Trainer:
        model, processor = zipr1.load("zipr1/tiny")
        config = zipr1.TrainConfig(**SETTINGS | {"max_steps": 3, "save_steps": 2} | settings)
        return zipr1.Trainer(model, config, processing_class=processor, **sets)

    whole = trainer(output_dir="whole")
    final = whole.train(quiet=True)
    with pytest.raises(InputError, match="was trained already, so it is no longer zipr1/tiny"):
        whole.train()
    killed = trainer(output_dir="killed")
    killed.callbacks = [Killed()]
    with pytest.raises(InterruptedError):
        killed.train(quiet=True)
    same(final, trainer(output_dir="killed", resume=True).train(quiet=True))


class Killed(TrainerCallback):
    def on_save(self, args, state, control, **more):
        raise InterruptedError("as if by power failure")


class StopAt(TrainerCallback):
    """Records events, and stops after a step."""

    def __init__(self, step: int):
        self.step, self.events = step, []

    def on_step_end(self, args, state, control, **more):
        self.events.append(f"step {state.global_step} of {state.max_steps}")
        assert args.output_dir and more["model"].config.model_type and more["optimizer"]
        control.should_evaluate = state.global_step == 1
        control.should_save = state.global_step == 1
        control.should_training_stop = state.global_step == self.step

    def on_evaluate(self, args, state, control, metrics, **more):
        self.events.append(f"evaluate {sorted(metrics)[0]}")

    def on_log(self, args, state, control, logs, **more):
        self.events.append(f"log {len(state.log_history)}")
        assert state.log_history[-1]["token_ratio"] == logs["token_ratio"]

    def on_save(self, args, state, control, **more):
        self.events.append("save")

    def on_train_end(self, args, state, control, **more):
        self.events.append("end")


def test_callbacks_see_evaluate_save_and_stop(tmp_path):
    stop = StopAt(2)
    config = zipr1.TrainConfig(**SMALL, max_steps=5, output_dir=str(tmp_path))
    trainer = zipr1.Trainer(args=config, callbacks=[stop])
    final = trainer.train(quiet=True)
    assert stop.events == [
        *("step 1 of 5", "evaluate probe/accuracy", "log 1", "save"),
        *("step 2 of 5", "evaluate probe/accuracy", "log 2", "end"),
    ]
    assert (tmp_path / "checkpoint-1").is_dir() and final.is_dir()
    assert json.loads((final / "zipr1.json").read_text())["step"] == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"train_dataset": "rows.json"}, "eval_dataset: give rows to measure on"),
        ({"model": "a/b", "args": {"model": "c/d"}}, "model: args has 'c/d', and the trainer got"),
        ({"callbacks": [print]}, "is no transformers.TrainerCallback"),
        ({"processing_class": object()}, "processing_class: belongs to a loaded model"),
        ({"reward_weights": [1.0]}, "reward_weights: belong to reward_funcs"),
        ({"reward_funcs": [length], "reward_weights": [1, 2]}, "reward_weights: 2 for 1 functions"),
        ({"reward_funcs": [3]}, "reward_funcs: 3 is neither a function"),
        ({"reward_funcs": "none.py:f"}, "no such file"),
        ({"reward_funcs": length, "args": {"baseline": "reference"}}, "set baseline to group"),
    ],
    ids=lambda one: one if isinstance(one, str) else " ".join(one),
)
def test_arguments_that_do_not_fit_are_named(arguments, word):
    config = zipr1.TrainConfig(**arguments.pop("args", {}))
    with pytest.raises(InputError, match=word):
        zipr1.Trainer(args=config, **arguments)


def test_rows_that_are_no_table_are_named(tmp_path, rows):
    held = datasets.Dataset.from_list(rows[1])
    turned = held.with_transform(lambda row: row)
    config = zipr1.TrainConfig(output_dir="run", **SETTINGS)
    for given, word in ((held.to_iterable_dataset(), "IterableDataset"), (turned, "transform")):
        with pytest.raises(InputError, match=word):
            zipr1.Trainer(args=config, train_dataset=given, eval_dataset=held).train()
    model = zipr1.load("zipr1/tiny")[0]
    model.config.name_or_path = ""
    with pytest.raises(InputError, match="model: has no name"):
        zipr1.Trainer(model)


def on_a_terminal(arguments: list[str], folder: Path) -> str:
    """What a command writes to a terminal."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        arguments, cwd=folder, stderr=writer, stdout=subprocess.DEVNULL, env=environment
    )
    os.close(writer)
    parts = []
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(reader)
    assert process.wait() == 0, b"".join(parts).decode()
    return b"".join(parts).decode()


def test_what_a_training_says_on_the_terminal(tmp_path):
    train, held = shapes_rows(tmp_path, 3, "train"), shapes_rows(tmp_path, 2, "val")
    train[1]["image"] = "gone.png"
    data = write_jsonl(tmp_path / "train.jsonl", train)
    probe = write_jsonl(tmp_path / "val.jsonl", held)
    settings = SETTINGS | {"data": data, "probe_data": probe, "max_steps": 3, "save_steps": 2}
    out = on_a_terminal(command(settings, tmp_path / "run"), tmp_path)
    for word in ("probe, p = 0.975:", "probe, dense:", "/3 ", "zipr1: step 0: ", "zipr1: step 3: "):
        assert word in out, word
    assert "of the tokens, accuracy " in out and ", with dense attention " in out
    assert out.count("left out, as all such rows: row 1: ") == 1 and "rows were left out; " in out
    table = out[out.index("| token ratio") - 5 :]
    first, last = metrics(tmp_path / "run")[0], metrics(tmp_path / "run")[-1]
    for name, row in (("before", first), ("after step 3", last)):
        numbers = [row[f"probe/{key}"] for key in ("token_ratio", "accuracy", "full_accuracy")]
        assert f"| {name} | " + " | ".join(f"{number:.1%}" for number in numbers) in table
    (tmp_path / "run/final").rename(tmp_path / "done")
    out = on_a_terminal(command(settings, tmp_path / "run", "--resume"), tmp_path)
    assert "zipr1: resumed at step 2 of 3" in out and "step 0: " not in out


def test_a_quiet_training_in_a_file_has_lines_without_bars(tmp_path):
    done = subprocess.run(
        command(SMALL | {"max_steps": 1}, tmp_path / "run"), capture_output=True, text=True
    )
    assert done.returncode == 0 and "\r" not in done.stderr and "\x1b" not in done.stderr
    assert "zipr1: step 1: " in done.stderr and done.stdout.strip().endswith("/final")


def test_no_tracker_and_one_that_is_not_installed(capsys, tmp_path):
    flags = ["train", *(f"--{name}={value}" for name, value in SETTINGS.items()), "--tasks=shapes"]
    status, _, err = run(capsys, *flags, f"--output_dir={tmp_path}/none", "--report_to", "none")
    files = [path for path in (tmp_path / "none").rglob("*") if "tfevents" in path.name]
    assert status == 0 and not files and len(metrics(tmp_path / "none")) == 3, err
    if find_spec("mlflow") is None:
        status, _, err = run(capsys, *flags, f"--output_dir={tmp_path}/ml", "--report_to", "mlflow")
        assert status == 1 and "report_to=mlflow: pip install mlflow" in err


def test_a_demo_folder_given_as_a_model_names_its_models(capsys, tmp_path):
    write_document(tmp_path / "demo/config.json", "demo", {"demo": {}})
    model, processor = zipr1.load("zipr1/tiny")
    zipr1.save(model, processor, tmp_path / "demo/exact/final")
    status, _, err = run(capsys, "eval", str(tmp_path / "demo"))
    assert status == 2 and f"give one of the models below {tmp_path}/demo: " in err
    assert f"{tmp_path}/demo/exact/final" in err
