"""What `zipr1 data check` says of rows, and that training says the same."""

import copy
import json
import os
import signal

import data_rows
import pytest
from command_line import run
from conftest import random_model, tiny_processor
from data_rows import GENERAL, published, video_r1, write
from PIL import Image

from zipr1.common.recipe import read_recipe
from zipr1.data.processor import prepare
from zipr1.data.rows import open_rows
from zipr1.models.loading import load_processor
from zipr1.training.config import TrainConfig
from zipr1.training.data_check import Finding, findings
from zipr1.training.questions import Questions, longest_prompt

cache, root = data_rows.cache, data_rows.root  # fixtures


def test_check_finds_nothing_wrong(capsys, root):
    status, out, err = run(capsys, "data", "check", video_r1(root), "--json", "--workers", "0")
    report = json.loads(out)
    assert status == 0 and "6/6" in err
    assert report["rows"] == report["usable"] == 6 and not any(report["problems"].values())
    assert report["data_type"] == {"image": 3, "video": 3} and report["data_source"] == {
        "CLEVR": 1,
        "": 5,
    }
    assert report["problem_type"] == {
        "multiple choice": 2,
        "numerical": 1,
        "OCR": 1,
        "free-form": 1,
        "regression": 1,
    }
    rows, lengths = open_rows(str(root / "rows.json"), max_frames=8), []
    for i in range(6):  # zipr1/tiny takes eight frames at most
        lengths.append(prepare(tiny_processor(), [rows.example(i)])["input_ids"].shape[1])
    assert report["longest_prompt"] == max(lengths)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_check_reports_every_row_that_cannot_be_used(capsys, root, workers):
    (root / "pictures/text.png").write_text("this is no picture")
    file = video_r1(
        root,
        published(6, "image", "OCR", [], "x", "pictures/none.png"),
        published(7, "image", "OCR", [], "x", "pictures/text.png"),
        published(8, "image", "golf", [], "x", "pictures/red.png"),
        published(9, "image", "multiple choice", ["A. x"], "x", "pictures/red.png"),
        published(10, "image", "numerical", [], " ", "pictures/red.png"),
        published(11, "video", "OCR", [], "x", ""),
        published(12, "image", "free-form", [], "x", "pictures/red.png")
        | {"problem": "why " * 300},
    )
    arguments = (
        "data",
        "check",
        file,
        "--media_root",
        str(root),
        "--max_prompt_length",
        "200",
        "--workers",
        workers,
    )
    status, out, err = run(capsys, *arguments, "--json")
    report = json.loads(out)
    assert status == 1 and "7 of 13 rows cannot be used" in err
    found = report["problems"]
    assert {name: len(messages) for name, messages in found.items()} == {
        "missing media": 1, "broken media": 1, "malformed rows": 4, "over-long prompts": 1,
    }  # fmt: skip
    assert (
        "row 6: " in found["missing media"][0]
        and "none.png: no such file" in found["missing media"][0]
    )
    assert "row 7: " in found["broken media"][0] and "text.png" in found["broken media"][0]
    words = [
        "row 8: column 'problem_type' is 'golf'",
        "row 9: its own answer 'x' is not",
        "row 10: column 'solution' is '<answer> </answer>'",
        "row 11: column 'path' is ''",
    ]
    assert all(
        word in message for word, message in zip(words, found["malformed rows"], strict=True)
    )
    assert (
        "row 12: a prompt of " in found["over-long prompts"][0]
        and "above 200" in found["over-long prompts"][0]
    )
    assert report["usable"] == 6 and report["longest_prompt"] > 300
    if workers == "0":
        status, out, _ = run(capsys, *arguments)
        assert (
            status == 1
            and "malformed rows      4\n  row 8: " in out
            and "13 rows, 6 of them usable" in out
        )


def test_check_refuses_with_a_word(capsys, root):
    write(root / "other.json", [{"question": "?", "reply": "!"}])
    (root / "torn.json").write_text('[{"prompt": "a", "answer"')
    (root / "rows.txt").write_text("prompt")
    write(root / "none.jsonl", [])
    write(root / "none.json", [])
    cases = [
        (["check", str(root / "gone.json")], "gone.json: no such file"),
        (["check", str(root / "other.json")], "columns question, reply: expected"),
        (["check", str(root / "torn.json")], "torn.json is no JSON ("),
        (["check", str(root / "rows.txt")], "expected a name that ends in .json"),
        (["check", str(root / "none.jsonl")], "none.jsonl: no rows"),
        (["check", str(root / "none.json")], "none.json: no rows; give a data set"),
        (["check", video_r1(root), "--max_prompt_length", "0"], "max_prompt_length=0"),
        (["check", video_r1(root), "--workers", "-1"], "workers=-1"),
        (["check", video_r1(root), "--model", "no/such/folder"], "no/such/folder"),
        (["mend", "rows.json"], "mend"),
    ]
    for arguments, word in cases:
        status, out, err = run(capsys, "data", *arguments)
        assert status == 2 and word in err and "Traceback" not in err and out == "", (
            arguments,
            status,
            err,
        )


SAMPLED = "gate: none\nmax_completion_length: 16\nmax_prompt_length: 120\n"
GIVEN = SAMPLED + "completions: given\n"


def model_folder(root, family: str) -> str:
    """Configuration and processor of a model whose chat template knows no system."""
    random_model(family).config.save_pretrained(root / "model")
    processor = copy.copy(
        tiny_processor() if family == "qwen2_5_vl" else tiny_processor().tokenizer
    )
    processor.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + processor.chat_template
    )
    processor.save_pretrained(root / "model")
    return str(root / "model")


@pytest.mark.parametrize(
    ("family", "recipe", "refused"),
    [
        ("qwen2_5_vl", SAMPLED, ["chat", "golf", "long", "missing", "system", "wrong"]),
        (
            "qwen2_5_vl",
            SAMPLED + "reward_function: operator:eq\n",
            ["chat", "long", "missing", "system"],
        ),
        ("qwen2_5_vl", GIVEN, ["chat", "long", "missing", "system"]),
        (
            "qwen2_5_vl",
            GIVEN.replace("max_prompt_length: 120", "max_pixels: 1024"),
            ["chat", "missing", "system"],
        ),
        ("llama", SAMPLED, ["chat", "golf", "long", "missing", "picture", "system", "wrong"]),
        ("llama", GIVEN + "chat_template: false\n", ["long", "missing", "picture"]),
    ],
)
def test_the_check_says_what_training_does(capsys, root, family, recipe, refused):
    """The same rows are left out, with the same words, each with its row."""

    def row(
        name: str,
        words: str = "Say a word.",
        role: str | None = "user",
        image: str | None = None,
        **more,
    ) -> dict:
        turns = [{"role": role, "content": "Be brief."}, {"role": "user", "content": words}]
        prompt = words if "chat_template" in recipe else turns
        return {
            "id": name,
            "prompt": prompt,
            "answer": "word",
            "problem_type": "exact",
            "image": image,
        } | more

    rows = [
        row("plain"), row("picture", image="pictures/red.png"),
        row("missing", image="pictures/none.png"),
        row("chat", role=None), row("system", role="system"), row("golf", problem_type="golf"),
        row("wrong", problem_type="numerical"), row("long", "word " * 120),
    ]  # fmt: skip
    model = model_folder(root, family)
    data = write(root / "chats.json", rows)
    (root / "recipe.yaml").write_text(
        recipe + f"model: {model}\ndata: {data}\nprobe_data: {data}\nmax_steps: 1\n"
    )
    flags = ("--recipe", str(root / "recipe.yaml"), "--json", "--workers", "0")
    status, out, err = run(capsys, "data", "check", data, *flags)
    report = json.loads(out)
    assert status == 1 and f"{len(refused)} of 8 rows cannot be used" in err
    config = read_recipe(TrainConfig, root / "recipe.yaml")
    processor = load_processor(model)
    longest = longest_prompt(random_model(family), config)
    questions = Questions(config, processor, longest)
    _, used, _ = questions.read(range(8), 0)
    assert sorted(questions.failed) == sorted(
        message for messages in report["problems"].values() for message in messages
    )
    assert (
        sorted(message.removeprefix("row ").split(":")[0] for message in questions.failed)
        == refused
    )
    assert (
        len(used) == report["usable"] == 8 - len(refused) and report["max_prompt_length"] == longest
    )


def test_the_check_asks_of_a_model_what_training_asks(capsys, root):
    data = write(root / "rows.json", GENERAL)
    for flags, word in (
        (("--chat_template", "false"), "chat_template=false"),
        (("--reward_function", "no.such:f"), "no.such"),
    ):
        status, _, err = run(capsys, "data", "check", data, *flags)
        assert status == 2 and word in err


@pytest.mark.parametrize(
    "flags", [("--completions", "given"), ("--reward_function", "operator:eq")]
)
def test_a_recipe_for_other_completions_or_rewards(capsys, root, flags):
    """Its gate and its baseline, which would not go with them, say nothing of rows."""
    (root / "recipe.yaml").write_text("preset: exact\ngate: answer\nbaseline: reference\n")
    data = write(root / "rows.json", GENERAL)
    status, out, err = run(
        capsys,
        "data",
        "check",
        data,
        "--recipe",
        str(root / "recipe.yaml"),
        "--json",
        "--workers",
        "0",
        *flags,
    )
    assert status == 0 and json.loads(out)["usable"] == 4, err


def test_a_prompt_leaves_room_for_its_completion(capsys, root):
    """The limit is what the positions leave, or less by max_prompt_length."""
    positions = random_model("qwen2_5_vl").config.get_text_config().max_position_embeddings
    data = write(root / "rows.json", GENERAL)
    for flags, limit in (
        ((), positions - 6),
        (("--max_completion_length", str(positions - 50)), 50),
    ):
        report = json.loads(
            run(capsys, "data", "check", data, "--json", "--workers", "0", *flags)[1]
        )
        assert report["max_prompt_length"] == limit


def test_pixels_have_a_limit(capsys, root):
    """zipr1/tiny has a token for each 16 x 16 pixels, takes 16,384 of an image and 9,216 of a
    frame, of which it joins two."""
    Image.new("RGB", (640, 480)).save(root / "large.png")
    picture = write(root / "picture.json", [GENERAL[0] | {"image": "large.png"}])
    clip = write(root / "clip.json", [GENERAL[2]])

    def tokens(file: str, *flags: str) -> int:
        return json.loads(
            run(capsys, "data", "check", file, "--json", "--workers", "0", *flags)[1]
        )["longest_prompt"]

    less = tokens(picture) - tokens(picture, "--max_pixels", "4096")
    assert less >= (9216 - 4096) // 256 and tokens(picture, "--video_max_pixels", "1024") == tokens(
        picture
    )
    less = tokens(clip) - tokens(clip, "--video_max_pixels", "1024")
    assert less >= 4 * (4096 - 1024) // 256 and tokens(clip, "--max_pixels", "1024") == tokens(clip)


class Killed(list):
    """Rows of which some end the process that reads them, as a system without memory does."""

    def __getitem__(self, index):
        return (
            os.kill(os.getpid(), signal.SIGKILL) if index in (3, 30) else super().__getitem__(index)
        )


class Failing(list):
    def __getitem__(self, index):
        raise RuntimeError("something else")


def test_rows_that_end_the_process_that_reads_them_are_named():
    with pytest.raises(RuntimeError, match="something else"):
        findings(Failing(range(4)), workers=2)
    rows = Killed((index, Finding(data_type="text", message=f"row {index}")) for index in range(40))
    found = findings(rows, workers=2)
    assert len(found) == 40
    broken = {index for index, finding in enumerate(found) if finding.problem == "broken media"}
    assert broken == {3, 30} and "row number 30" in found[30].message
    assert all(found[index].message == f"row {index}" for index in range(40) if index not in broken)
