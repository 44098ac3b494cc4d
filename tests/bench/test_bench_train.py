"""`zipr1 bench train`: what it counts, and what a training step computes once."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook

from zipr1.bench.training import PARTS
from zipr1.cli.main import main, parse
from zipr1.common.clock import Stopwatch
from zipr1.common.locking import LOCK
from zipr1.data.processor import prepare
from zipr1.models.loading import load
from zipr1.training.config import TrainConfig
from zipr1.training.metrics import final_row
from zipr1.training.questions import Questions
from zipr1.training.train import train

RECIPE = (
    "tasks: [shapes, digits]\nprompts_per_step: 2\nnum_generations: 3\nmax_completion_length: 4\n"
)


def test_rows_parts_and_tokens(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "out" / "run").mkdir(parents=True)  # a training of the user's
    (tmp_path / "out" / "run" / "metrics.jsonl").write_text("theirs")
    flags = ("--steps", "2", "--repeats", "1", "--output_dir", str(tmp_path / "out"))
    main(["bench", "train", str(tmp_path / "recipe.yaml"), "--json", *flags])
    sparse, dense = rows = json.loads(capsys.readouterr().out)
    assert [row["rollouts"] for row in rows] == ["sparse", "dense"]
    assert sparse["token_ratio"] < 0.95 and dense["token_ratio"] == 1.0
    processor = load("zipr1/tiny")[1]
    questions = Questions(TrainConfig(tasks=["shapes", "digits"]), processor, 4096)
    asked = [
        questions.example(number, number // 2) for number in range(2, 6)
    ]  # of steps 2 and 3, two each
    prompts = sum(prepare(processor, [example])["input_ids"].shape[1] for example in asked)
    for row in rows:
        assert row["prompt_tokens"] == round(
            3 * prompts / 2
        )  # of a step: each is read by three rollouts
        assert 2 * 3 <= row["completion_tokens"] <= 2 * 3 * 4
        assert all(row[part] > 0 for part in PARTS)
        tokens = row["prompt_tokens"] + row["completion_tokens"]
        assert row["tokens_per_second"] == pytest.approx(tokens / row["seconds"])
    assert dense["speed"] == 1.0
    saved = json.loads((tmp_path / "out" / "bench_train.json").read_text())
    assert saved["rows"] == rows and saved["versions"]["torch"]
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"bench_train.json", LOCK, "run"}  # its own runs are thrown away
    assert (tmp_path / "out" / "run" / "metrics.jsonl").read_text() == "theirs"


def test_a_step_without_a_row_is_not_timed(tmp_path, capsys):
    """An image that is cut off: its step is dropped, and what it took means nothing."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    names = ("good", "bad")
    for kind, images in (("rows", names), ("probe", names[:1])):
        rows = [{"image": f"{one}.png", "prompt": "What?", "answer": "red"} for one in images]
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = f"data: {tmp_path}/rows.jsonl\nprobe_data: {tmp_path}/probe.jsonl\n"
    recipe += "prompts_per_step: 1\nnum_generations: 2\nmax_completion_length: 2\n"
    (tmp_path / "recipe.yaml").write_text(recipe + "max_skipped_steps: 9\n")
    flags = ("--steps", "4", "--repeats", "1", "--output_dir", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "train", str(tmp_path / "recipe.yaml"), *flags])
    assert stopped.value.code == 1
    assert "no row could be used, so there is nothing to time" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]


TIMES = "step_time", "seconds/probe"


def test_the_steps_of_a_run_have_their_parts(tmp_path):
    """And an image is encoded once per question, not once per rollout or model."""
    patches = []

    def count(module, args, output):
        if type(module).__name__ == "Qwen2_5_VisionTransformerPretrainedModel":
            patches.append(len(args[0]))

    config = TrainConfig(
        tasks=["shapes"],
        prompts_per_step=2,
        num_generations=4,
        max_steps=2,
        probe_per_task=1,
        output_dir=str(tmp_path),
    )
    handle = register_module_forward_hook(count)
    try:
        train(config, quiet=True)
    finally:
        handle.remove()
    lines = [json.loads(line) for line in Path(tmp_path / "metrics.jsonl").read_text().splitlines()]
    named = [
        {name.removeprefix("seconds/") for name in row if name.startswith("seconds/")}
        for row in lines
    ]
    assert named == [{"probe"}, set(PARTS), {*PARTS, "probe"}]
    assert final_row(tmp_path)["seconds"] == sum(
        value for row in lines for name, value in row.items() if name in TIMES
    )
    one = min(patches)  # a measurement on the probe set has one question, a step two
    assert [number for number in patches if number != one] == [2 * one, 2 * one]


def test_a_stopwatch_sums_the_turns_of_a_part():
    watch = Stopwatch(torch.device("cpu"))
    for part in ("loss", "update", "loss"):
        with watch(part):
            pass
    assert list(watch.seconds) == ["loss", "update"] and min(watch.seconds.values()) > 0


def test_bench_without_train_is_what_it_was(tmp_path):
    command, config = parse(["bench", "--tokens", "64"])
    assert command.name == "bench" and config.tokens == "64"
    assert parse(["bench", "train", "--steps", "2"])[1].steps == 2


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--steps", "0"), "steps=0"),
        (("nowhere.yaml",), "nowhere.yaml: no such"),
        (("--golf",), "golf"),
    ],
)
def test_what_cannot_be_timed_says_so(capsys, flags, word):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "train", *flags])
    assert stop.value.code == 2 and word in capsys.readouterr().err
