"""Rows of data sets as users keep them: what becomes of them, and what `zipr1 data check` says. Real media, written here."""

import copy
import json

import av
import datasets
import numpy as np
import pytest
import torch
from conftest import random_model, tiny_processor
from PIL import Image
from test_cli import run
from transformers import AutoProcessor

from zipr1.config import TrainConfig
from zipr1.data import open_rows, order
from zipr1.experience import rewarded
from zipr1.inputs import MediaError, MissingMedia, prepare
from zipr1.model import processor_of
from zipr1.questions import Questions
from zipr1.recipe import read_recipe
from zipr1.rollout import Rollout
from zipr1.train import longest_prompt, train

PUBLISHED = [  # data type, problem type, options, answer, path
    ("image", "multiple choice", ["A. red", "B. blue"], "A", "./pictures/red.png"),
    ("video", "multiple choice", ["A) left", "B) right"], "B", "./clips/grey.mkv"),
    ("video", "numerical", [], "1,234.5", "clips/grey.mkv"),
    ("image", "OCR", [], "STOP AHEAD", "pictures/red.png"),
    ("image", "free-form", [], "a red ball", "pictures/red.png"),
    ("video", "regression", [], "2.5", "clips/grey.mkv"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where datasets keeps its Arrow files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def root(tmp_path):
    """A media root: pictures in two colours, a clip of 3 seconds, 8 frames each, every one brighter by 10."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "clips").mkdir()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "pictures/red.png")
    Image.new("RGB", (96, 48), "blue").save(tmp_path / "pictures/blue.png")
    with av.open(str(tmp_path / "clips/grey.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for i in range(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * i, dtype=np.uint8), "rgb24")))
        container.mux(stream.encode())
    return tmp_path


def published(number: int, data_type: str, problem_type: str, options: list, answer: str, path: str) -> dict:
    return {
        "problem_id": number, "problem": f"Question {number}?", "data_type": data_type, "problem_type": problem_type,
        "options": options, "solution": f"<answer>{answer}</answer>", "path": path, "data_source": "" if number else "CLEVR",
    }  # fmt: skip


def write(path, rows: list) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows))
    return str(path)


def video_r1(root, *more: dict) -> str:
    return write(root / "rows.json", [*(published(i, *row) for i, row in enumerate(PUBLISHED)), *more])


def test_published_rows(root):
    rows = open_rows(video_r1(root), max_frames=4)
    examples = [rows.example(i) for i in range(len(rows))]
    assert [example.problem_type for example in examples] == [row[1] for row in PUBLISHED]
    assert [example.answer for example in examples] == [row[3] for row in PUBLISHED]
    asked = "Question {}?\nOptions:\n{}\n{}\nAnswer with the letter of the right option only."
    assert examples[0].question == asked.format(0, "A. red", "B. blue")
    assert examples[1].question == asked.format(1, "A) left", "B) right")
    assert examples[3].question == "Question 3?\nAnswer with the text as it is written, and nothing else."
    assert examples[0].image.size == (64, 48) and examples[0].frames is None
    assert [np.asarray(frame).mean() for frame in examples[1].frames] == [0, 80, 150, 230]  # frames 0, 8, 15, 23 of 24
    assert examples[1].image is None and examples[1].fps == pytest.approx(3 / (23 / 8))
    assert examples[0].columns["solution"] == "<answer>A</answer>" and examples[0].columns["data_source"] == "CLEVR"


def test_thinking_is_an_option(root):
    question = open_rows(video_r1(root), think=True).example(2).question
    assert question.startswith("Question 2?\nAnswer with the number only.\nThink first") and "</think>" in question


def test_the_media_root_may_lie_elsewhere(root, tmp_path_factory):
    file = write(tmp_path_factory.mktemp("elsewhere") / "rows.json", [published(0, *PUBLISHED[0])])
    assert open_rows(file, str(root)).example(0).image.size == (64, 48)
    with pytest.raises(MissingMedia, match=r"row 0: .*red\.png: no such file"):
        open_rows(file).example(0)


GENERAL = [
    {"prompt": "Which colour?", "image": "pictures/blue.png", "answer": "blue", "level": 1},
    {"prompt": "Same size?", "images": ["pictures/blue.png", "pictures/red.png"], "answer": "no", "level": 2},
    {"prompt": "Brighter?", "video": "clips/grey.mkv", "answer": "yes", "level": 3},
    {"prompt": "One and one?", "answer": "2", "problem_type": "numerical", "level": 4},
]


def check_general(rows) -> None:
    blue, pair, clip, text = (rows.example(i) for i in range(4))
    assert blue.question == "Which colour?" and blue.image.size == (96, 48) and blue.columns["level"] == 1
    assert [picture.size for picture in pair.images] == [(96, 48), (64, 48)] and pair.image is None
    assert len(clip.frames) == 8 and clip.pictures == ()
    assert text.pictures == () and text.frames is None
    assert [example.problem_type for example in (blue, pair, clip, text)] == ["exact", "exact", "exact", "numerical"]
    # Pictures, a clip and bare text in one batch: the picture pads of each row are those of its own pictures.
    processor = tiny_processor()
    batch = prepare(processor, [blue, pair, clip, text])
    pads = (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum(-1).tolist()
    of_each = (batch["image_grid_thw"].prod(-1) // 4).tolist()
    assert len(of_each) == 3 and pads == [of_each[0], sum(of_each[1:]), 0, 0]
    assert of_each[0] == of_each[1] > of_each[2] and len(batch["video_grid_thw"]) == 1


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_any_columns(root, name):
    check_general(open_rows(write(root / name, GENERAL), max_frames=8))


@pytest.mark.parametrize("kind", ["parquet", "save_to_disk"])
def test_media_inside_the_table(root, kind):
    """As the hub has it: pictures and clips as bytes."""
    picture = datasets.Image()
    features = {"prompt": datasets.Value("string"), "image": picture, "images": datasets.List(picture)}
    features |= {"video": datasets.Features({"bytes": datasets.Value("binary"), "path": datasets.Value("string")})}
    features |= {name: datasets.Value("string") for name in ("answer", "problem_type")} | {"level": datasets.Value("int64")}

    def data(path: str) -> dict:
        return {"bytes": (root / path).read_bytes(), "path": None}

    rows = [{name: row.get(name) for name in features} for row in GENERAL]
    rows[0]["image"], rows[2]["video"] = data(GENERAL[0]["image"]), data(GENERAL[2]["video"])
    rows[1]["images"] = [data(path) for path in GENERAL[1]["images"]]
    table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    place = root / ("rows.parquet" if kind == "parquet" else "rows")
    table.to_parquet(place) if kind == "parquet" else table.save_to_disk(place)
    check_general(open_rows(str(place), max_frames=8))


def test_columns_of_mixed_types(root):
    """Numbers beside words, as people write JSON: rows keep what they say."""
    more = published(6, *PUBLISHED[0]) | {"problem_id": "six", "data_source": 3}
    rows = open_rows(video_r1(root, more))
    assert [rows.example(i).id for i in (0, 6)] == ["0", "six"]
    rows = open_rows(write(root / "mixed.json", [{"prompt": "?", "answer": 3}, {"prompt": "?", "answer": "three"}]))
    assert [rows.example(i).answer for i in range(2)] == ["3", "three"]
    with pytest.raises(ValueError, match="row 0: column 'answer' is None: give a text"):
        open_rows(write(root / "none.json", [{"prompt": "?", "answer": None}])).example(0)


def test_a_chat_as_prompt(root):
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which colour?"}
    parts = [{"type": "text", "text": "First"}, {"type": "image"}, {"type": "text", "text": "then"}, {"type": "image"}]
    rows = [
        {"prompt": [system, user], "image": "pictures/red.png", "answer": "red"},
        {"prompt": [{"role": "user", "content": parts}], "images": ["pictures/red.png", "pictures/blue.png"], "answer": "x"},
        {"prompt": [{"role": "user", "content": parts}], "image": "pictures/red.png", "answer": "x"},
        {"prompt": [user, {"role": "assistant", "content": "Red."}], "image": "pictures/red.png", "answer": "x"},
    ]
    texts = []
    for i, row in enumerate(rows[:2]):  # datasets takes a column for text or for parts, not for both
        example = open_rows(write(root / f"rows{i}.json", [row])).example(0)
        ids = prepare(tiny_processor(), [example])["input_ids"][0]
        pads = tiny_processor().tokenizer.convert_tokens_to_ids(["<|image_pad|>"])[0]
        kept = [token for j, token in enumerate(ids.tolist()) if token != pads or ids[j - 1] != pads]
        texts.append(tiny_processor().tokenizer.decode(kept))
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert "Be brief.<|im_end|>" in texts[0] and f"user\n{picture}Which colour?<|im_end|>" in texts[0]
    assert f"First{picture}then{picture}<|im_end|>" in texts[1]
    with pytest.raises(ValueError, match=r"row 0: column 'prompt' names \['image', 'image'\], the row has \['image'\]"):
        open_rows(write(root / "rows2.json", rows[2:3])).example(0)
    with pytest.raises(ValueError, match="row 0: column 'prompt' is a chat that does not end with the user"):
        open_rows(write(root / "rows3.json", rows[3:])).example(0)
    with pytest.raises(ValueError, match="a chat needs a chat template"):
        prepare(
            tiny_processor().tokenizer,
            [open_rows(write(root / "rows4.json", [{"prompt": [system, user], "answer": "x"}])).example(0)],
            raw=True,
        )


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        (
            [{"content": "Be brief."}, {"role": "user", "content": "?"}],
            "message 0 of column 'prompt' is {'content': 'Be brief.",
        ),
        (["Which colour?", "Red?"], r"message 0 of column 'prompt' is 'Which colour\?': give it a role"),
        ([{"role": "user", "content": ["Which colour?"]}], r"message 0 of column 'prompt' holds \['Which colour\?'\]"),
        ([{"role": "user", "content": {"text": "?"}}], "message 0 of column 'prompt' holds {'text': '\\?'}"),
        ([{"role": "user", "content": [{"type": "sound"}]}], "parts of type text, image, video"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a part of type text without its text"),
        ([], "does not end with the user"),
    ],
)
def test_what_is_no_chat_is_named(root, prompt, word):
    rows = open_rows(write(root / "rows.json", [{"prompt": prompt, "answer": "x"}]))
    with pytest.raises(ValueError, match="row 0: .*" + word):
        rows.row(0)


def test_columns_of_a_wrong_type_are_named(root):
    rows = [published(0, *PUBLISHED[0]) | {"options": "A. red"}, published(1, *PUBLISHED[0]) | {"problem_type": ["OCR"]}]
    for number, (row, word) in enumerate(zip(rows, ("column 'options' is 'A. red'", "column 'problem_type'"), strict=True)):
        with pytest.raises(ValueError, match=f"row {number}: {word}"):
            open_rows(write(root / f"rows{number}.json", [row])).row(0)
    row = published(2, *PUBLISHED[0]) | {"path": "x" * 5000}  # a picture as base64, say
    with pytest.raises(MissingMedia, match=r"row 2: .*no such file"):
        open_rows(write(root / "rows2.json", [row])).example(0)


def test_splits_and_configurations_are_named_as_datasets_does(root):
    rows = [{"prompt": str(i), "answer": "x"} for i in range(10)]
    file = write(root / "rows.json", rows)
    assert len(open_rows(file)) == 10
    assert [open_rows(f"{file}[{split}]").row(0).example.question for split in ("train[3:]", "train[-20%:]")] == ["3", "8"]
    saved = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows), "val": datasets.Dataset.from_list(rows[:4])})
    saved.save_to_disk(root / "saved")
    saved["val"].save_to_disk(root / "one")
    assert [len(open_rows(f"{root}/{name}")) for name in ("saved", "saved[val]", "one")] == [10, 4, 4]
    hub = root / "hub"  # a folder as the hub has it
    hub.mkdir()
    (hub / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: easy\n  data_files:\n  - {split: train, path: a.jsonl}\n  - {split: test, path: b.jsonl}\n"
        "- config_name: hard\n  data_files:\n  - {split: train, path: b.jsonl}\n---\n"
    )
    write(hub / "a.jsonl", rows[:2])
    write(hub / "b.jsonl", rows[2:5])
    assert [len(open_rows(f"{hub}:{name}")) for name in ("easy", "easy[test]", "hard", "hard[train[:1]]")] == [2, 3, 3, 1]
    cases = [
        (f"{root}/saved[test]", r"its splits are train, val; give one as .*saved\[train\]"),
        (f"{root}/one[val]", r"one data set without splits; leave out \[val\]"),
        (f"{file}[val]", "split 'val' cannot be read"),
        (f"{file}:easy", "no configurations here; leave out 'easy'"),
        (f"{hub}:none", "none"),
        (f"{hub}", "easy"),  # which one?
    ]
    for data, word in cases:
        with pytest.raises(ValueError, match=word):
            open_rows(data)
    (root / "odd[1].json").write_text(json.dumps(rows))  # a name that looks like a split
    assert len(open_rows(f"{root}/odd[1].json")) == 10


def test_the_order_is_a_function_of_seed_and_position(root):
    rows = open_rows(video_r1(root))
    draw, n = order(rows, seed=1), len(rows)
    epochs = [[draw(epoch * n + i) for i in range(n)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    assert [order(rows, seed=1)(i) for i in (13, 2)] == [epochs[2][1], epochs[0][2]]  # a resumed run draws the same
    assert [order(rows, seed=2)(i) for i in range(n)] != epochs[0]


def test_broken_media_are_named(root):
    whole = (root / "clips/grey.mkv").read_bytes()
    (root / "clips/cut.mkv").write_bytes(whole[: len(whole) // 2])
    (root / "pictures/half.png").write_bytes((root / "pictures/red.png").read_bytes()[:60])
    Image.new("RGB", (9, 9)).save(root / "moves.gif", save_all=True, append_images=[Image.new("RGB", (9, 9), "red")])
    paths = [("video", "clips/cut.mkv"), ("image", "pictures/half.png"), ("image", "moves.gif"), ("image", "clips/grey.mkv")]
    rows = open_rows(video_r1(root, *(published(i, kind, "OCR", [], "x", path) for i, (kind, path) in enumerate(paths, 6))))
    words = [r"row 6: .*cut\.mkv: cut short", r"row 7: .*half\.png: broken picture", r"row 8: .*moves\.gif: 2 pictures",
             r"row 9: .*grey\.mkv: not a picture"]  # fmt: skip
    for index, word in enumerate(words, 6):
        with pytest.raises(MediaError, match=word):
            rows.example(index)


def test_check_finds_nothing_wrong(capsys, root):
    status, out, err = run(capsys, "data", "check", video_r1(root), "--json", "--workers", "0")
    report = json.loads(out)
    assert status == 0 and "6/6" in err
    assert report["rows"] == report["usable"] == 6 and not any(report["problems"].values())
    assert report["data_type"] == {"image": 3, "video": 3} and report["data_source"] == {"CLEVR": 1, "": 5}
    assert report["problem_type"] == {"multiple choice": 2, "numerical": 1, "OCR": 1, "free-form": 1, "regression": 1}
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
        published(12, "image", "free-form", [], "x", "pictures/red.png") | {"problem": "why " * 300},
    )
    arguments = ("data", "check", file, "--media_root", str(root), "--max_prompt_length", "200", "--workers", workers)
    status, out, err = run(capsys, *arguments, "--json")
    report = json.loads(out)
    assert status == 1 and "7 of 13 rows cannot be used" in err
    found = report["problems"]
    assert {name: len(messages) for name, messages in found.items()} == {
        "missing media": 1, "broken media": 1, "malformed rows": 4, "over-long prompts": 1,
    }  # fmt: skip
    assert "row 6: " in found["missing media"][0] and "none.png: no such file" in found["missing media"][0]
    assert "row 7: " in found["broken media"][0] and "text.png" in found["broken media"][0]
    words = ["row 8: column 'problem_type' is 'golf'", "row 9: its own answer 'x' is not right as multiple choice",
             "row 10: column 'solution' is '<answer> </answer>'", "row 11: column 'path' is ''"]  # fmt: skip
    assert all(word in message for word, message in zip(words, found["malformed rows"], strict=True))
    assert "row 12: a prompt of " in found["over-long prompts"][0] and "above 200" in found["over-long prompts"][0]
    assert report["usable"] == 6 and report["longest_prompt"] > 300
    if workers == "0":
        status, out, _ = run(capsys, *arguments)
        assert status == 1 and "malformed rows      4\n  row 8: " in out and "13 rows, 6 of them usable" in out


def test_check_refuses_with_a_word(capsys, root):
    write(root / "other.json", [{"question": "?", "reply": "!"}])
    (root / "torn.json").write_text('[{"prompt": "a", "answer"')
    (root / "rows.txt").write_text("prompt")
    write(root / "none.jsonl", [])
    write(root / "none.json", [])
    cases = [
        (["check", str(root / "gone.json")], "gone.json: no such file"),
        (["check", str(root / "other.json")], "columns question, reply: expected"),
        (["check", str(root / "torn.json")], "torn.json: split 'train' cannot be read ("),
        (["check", str(root / "rows.txt")], "expected a name that ends in .json"),
        (["check", str(root / "none.jsonl")], "none.jsonl: no rows"),
        (["check", str(root / "none.json")], "none.json: split 'train' cannot be read"),
        (["check", video_r1(root), "--max_prompt_length", "0"], "max_prompt_length=0"),
        (["check", video_r1(root), "--workers", "-1"], "workers=-1"),
        (["check", video_r1(root), "--model", "no/such/folder"], "no/such/folder"),
        (["mend", "rows.json"], "mend"),
    ]
    for arguments, word in cases:
        status, out, err = run(capsys, "data", *arguments)
        assert status == 2 and word in err and "Traceback" not in err and out == "", (arguments, status, err)


SAMPLED = "gate: none\nmax_completion_length: 16\nmax_prompt_length: 120\n"
GIVEN = SAMPLED + "completions: given\n"


def model_folder(root, family: str) -> str:
    """Configuration and processor of a model whose chat template knows no system."""
    random_model(family).config.save_pretrained(root / "model")
    processor = copy.copy(tiny_processor() if family == "qwen2_5_vl" else tiny_processor().tokenizer)
    processor.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + processor.chat_template
    )
    processor.save_pretrained(root / "model")
    return str(root / "model")


@pytest.mark.parametrize(
    ("family", "recipe", "refused"),
    [
        ("qwen2_5_vl", SAMPLED, ["chat", "golf", "long", "missing", "system", "wrong"]),
        ("qwen2_5_vl", SAMPLED + "reward_function: operator:eq\n", ["chat", "long", "missing", "system"]),
        ("qwen2_5_vl", GIVEN, ["chat", "long", "missing", "system"]),
        ("qwen2_5_vl", GIVEN.replace("max_prompt_length: 120", "max_pixels: 1024"), ["chat", "missing", "system"]),
        ("llama", SAMPLED, ["chat", "golf", "long", "missing", "picture", "system", "wrong"]),
        ("llama", GIVEN + "chat_template: false\n", ["long", "missing", "picture"]),
    ],
)
def test_the_check_says_what_training_does(capsys, root, family, recipe, refused):
    """The same rows are left out, with the same words, each with its row."""

    def row(name: str, words: str = "Say a word.", role: str | None = "user", image: str | None = None, **more) -> dict:
        turns = [{"role": role, "content": "Be brief."}, {"role": "user", "content": words}]
        prompt = words if "chat_template" in recipe else turns
        return {"id": name, "prompt": prompt, "answer": "word", "problem_type": "exact", "image": image} | more

    rows = [
        row("plain"), row("picture", image="pictures/red.png"), row("missing", image="pictures/none.png"),
        row("chat", role=None), row("system", role="system"), row("golf", problem_type="golf"),
        row("wrong", problem_type="numerical"), row("long", "word " * 120),
    ]  # fmt: skip
    model = model_folder(root, family)
    data = write(root / "chats.json", rows)
    (root / "recipe.yaml").write_text(recipe + f"model: {model}\ndata: {data}\nprobe_data: {data}\nmax_steps: 1\n")
    flags = ("--recipe", str(root / "recipe.yaml"), "--json", "--workers", "0")
    status, out, err = run(capsys, "data", "check", data, *flags)
    report = json.loads(out)
    assert status == 1 and f"{len(refused)} of 8 rows cannot be used" in err
    config = read_recipe(TrainConfig, root / "recipe.yaml")
    processor = processor_of(model, family)
    longest = longest_prompt(random_model(family), config)
    questions = Questions(config, processor, longest)
    _, used, _ = questions.read(range(8), 0)
    assert sorted(questions.failed) == sorted(message for messages in report["problems"].values() for message in messages)
    assert sorted(message.removeprefix("row ").split(":")[0] for message in questions.failed) == refused
    assert len(used) == report["usable"] == 8 - len(refused) and report["max_prompt_length"] == longest


def test_the_check_asks_of_a_model_what_training_asks(capsys, root):
    data = write(root / "rows.json", GENERAL)
    for flags, word in ((("--chat_template", "false"), "chat_template=false"), (("--reward_function", "no.such:f"), "no.such")):
        status, _, err = run(capsys, "data", "check", data, *flags)
        assert status == 2 and word in err


def test_a_prompt_leaves_room_for_its_completion(capsys, root):
    """The limit is what the positions leave, or less by max_prompt_length."""
    positions = random_model("qwen2_5_vl").config.get_text_config().max_position_embeddings
    data = write(root / "rows.json", GENERAL)
    for flags, limit in (((), positions - 6), (("--max_completion_length", str(positions - 50)), 50)):
        report = json.loads(run(capsys, "data", "check", data, "--json", "--workers", "0", *flags)[1])
        assert report["max_prompt_length"] == limit


def test_pixels_have_a_limit(capsys, root):
    """zipr1/tiny has a token for each 16 x 16 pixels, takes 16,384 of a picture and 9,216 of a frame, of which it joins two."""
    Image.new("RGB", (640, 480)).save(root / "large.png")
    picture = write(root / "picture.json", [GENERAL[0] | {"image": "large.png"}])
    clip = write(root / "clip.json", [GENERAL[2]])

    def tokens(file: str, *flags: str) -> int:
        return json.loads(run(capsys, "data", "check", file, "--json", "--workers", "0", *flags)[1])["longest_prompt"]

    less = tokens(picture) - tokens(picture, "--max_pixels", "4096")
    assert less >= (9216 - 4096) // 256 and tokens(picture, "--video_max_pixels", "1024") == tokens(picture)
    less = tokens(clip) - tokens(clip, "--video_max_pixels", "1024")
    assert less >= 4 * (4096 - 1024) // 256 and tokens(clip, "--max_pixels", "1024") == tokens(clip)


def test_what_is_read_ahead_is_what_is_asked_for(root):
    """Rows of the next step are read while this one runs; a run that starts there reads the same. Nothing beyond the last."""
    file = write(
        root / "rows.json", [GENERAL[i % 4] | {"id": i} for i in range(5)] + [{"prompt": "?", "answer": None, "id": 5}]
    )
    config = TrainConfig(data=file, probe_data=file, prompts_per_step=4, max_steps=3, max_frames=4)
    questions = Questions(config, tiny_processor(), 4096)
    steps = [questions.read(range(4 * step, 4 * step + 4), step) for step in range(2)]
    assert sorted(questions.coming) == [8, 9, 10, 11]
    last = questions.read(range(8, 12), 2)
    assert not questions.coming and sum("row 5" in reason for reason in questions.failed) == len(questions.failed) == 2
    assert sorted(example.id for _, examples, _ in (*steps, last) for example in examples) == sorted("0123401234")
    resumed = Questions(config, tiny_processor(), 4096).read(range(8, 12), 2)
    assert resumed[0] == last[0] and [one.id for one in resumed[1]] == [one.id for one in last[1]]
    assert all((one["input_ids"] == other["input_ids"]).all() for one, other in zip(resumed[2], last[2], strict=True))


SAID = [  # of each row of PUBLISHED what is right, what is not, and the grade of that
    ("A", "B. blue", 0.0),
    ("B) right", "A", 0.0),
    ("1234.50", "1234.6", 0.0),
    ("STOP AHEAD", "GO RIGHT", 0.0),
    ("A red ball.", "the red bus", (1 / 3 + 1 / 3 + 0) / 3),
    ("<answer>2.5</answer>", "2.0", 0.8),
]


@pytest.mark.parametrize("graded", [False, True])
def test_rows_of_every_type_earn_what_their_answers_are_worth(root, graded):
    """Through the function that the trainer calls, on tokens."""
    rows = open_rows(video_r1(root), max_frames=2)
    processor = tiny_processor()
    texts = [text for right, wrong, _ in SAID for text in (right, wrong)]
    batch = processor.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    tokens, mask = batch["input_ids"], batch["attention_mask"].bool()
    rollout = Rollout(
        embeds={}, text=tokens, p=(1.0,) * 12, tokens=tokens, mask=mask, clipped=~mask[:, -1], kept=[],
        logprobs=torch.zeros(tokens.shape), token_ratio=torch.full((12,), 0.25), temperature=1.0, suppress=[],
    )  # fmt: skip
    got = rewarded(processor, [rows.example(i) for i in range(6)], rollout, TrainConfig(graded=graded))
    torch.testing.assert_close(got.accuracy, torch.tensor([[1.0, grade * graded] for _, _, grade in SAID]))
    assert (got.efficiency == 0.75).all() and not got.unparsable.any()


SMALL = {"prompts_per_step": 6, "num_generations": 2, "max_steps": 2, "probe_per_task": 3, "max_completion_length": 4}


def test_training_on_rows_of_every_kind(root):
    """Pictures, clips and text in one batch, a broken file among them: counted, named, and nothing in its place."""
    (root / "broken.png").write_bytes(b"no picture")
    probe = write(root / "probe.json", [published(i, *row) for i, row in enumerate(PUBLISHED)])
    data = video_r1(root, published(7, "image", "OCR", [], "x", "broken.png"), {**published(8, "text", *PUBLISHED[0][1:4], "")})
    out = root / "out"
    settings = SMALL | {"data": data, "probe_data": probe, "output_dir": str(out), "graded": True, "max_pixels": 4096}
    train(TrainConfig(**settings, baseline="group"), quiet=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert "probe/accuracy" in rows[0] and "probe/token_ratio" in rows[2]
    failed = (out / "failed-rows-0.txt").read_text().splitlines()
    assert sum(row["failed_rows"] for row in rows[1:]) == len(failed) > 0
    assert all("row 7" in line and "broken.png" in line for line in failed)
    assert AutoProcessor.from_pretrained(out / "final").image_processor.size["longest_edge"] == 4096


def test_training_with_a_users_reward(root, monkeypatch):
    monkeypatch.chdir(root)
    (root / "mine.py").write_text("def level(completions, level, **columns):\n    return [float(one) for one in level]\n")
    rows = [{"prompt": "Say a word.", "answer": "word", "level": i % 2} for i in range(12)]
    data = write(root / "text.jsonl", rows)
    settings = SMALL | {"data": data, "probe_data": data, "output_dir": str(root / "out"), "reward_function": "mine:level"}
    train(TrainConfig(**settings), quiet=True)
    metrics = [json.loads(line) for line in (root / "out" / "metrics.jsonl").open()]
    assert metrics[1]["rewards/accuracy"] + metrics[2]["rewards/accuracy"] == pytest.approx(
        1.0
    )  # all twelve rows, half at level 1


def test_training_on_given_completions(root):
    """A text model, prompts as they are, the completions of the data: no sampling; KL and token ratio fall."""
    random_model("llama").save_pretrained(root / "model")
    tiny_processor().tokenizer.save_pretrained(root / "model")
    text = "the way that a word is kept by the model is what it holds of the text before it "
    rows = [{"prompt": text[4 * i :] * 6, "completion": text[:24]} for i in range(8)]
    data = write(root / "text.jsonl", rows)
    settings = {"data": data, "probe_data": data, "completions": "given", "chat_template": False, "probe_per_task": 8}
    settings |= {"reward_weight": 0.0, "gate": "none", "governed": False, "sparsity_weight": 20.0, "learning_rate": 3e-3}
    settings |= {"prompts_per_step": 4, "num_generations": 2, "max_steps": 12, "max_completion_length": 8}
    train(TrainConfig(**settings, model=str(root / "model"), output_dir=str(root / "out"), decay_share=0.1), quiet=True)
    metrics = [json.loads(line) for line in (root / "out" / "metrics.jsonl").open()]
    assert metrics[-1]["probe/token_ratio"] < metrics[0]["probe/token_ratio"] - 0.05
    assert metrics[1]["completions/mean_length"] > 3
    assert metrics[0]["probe/logprob"] < 0 and metrics[0]["probe/full_logprob"] < 0
    with pytest.raises(ValueError, match="completions=given"):
        TrainConfig(**settings | {"gate": "answer"})


def test_rows_that_cannot_be_used_stop_the_run(root):
    """No untrained model comes out of it."""
    rows = [{"prompt": "Say a word.", "answer": "word", "problem_type": "golf"}] * 8
    data, out = write(root / "golf.jsonl", rows), root / "out"
    probe = write(root / "probe.jsonl", [{"prompt": "Say a word.", "answer": "word"}])
    settings = SMALL | {"max_steps": 9, "data": data, "probe_data": probe, "output_dir": str(out)}
    with pytest.raises(ValueError, match="2 steps in a row without usable rows"):
        train(TrainConfig(**settings, max_skipped_steps=1), quiet=True)
    assert "golf" in (out / "failed-rows-0.txt").read_text() and not (out / "final").exists()
