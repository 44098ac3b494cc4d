"""Rows of data sets as users keep them: what becomes of them."""

import json

import data_rows
import datasets
import numpy as np
import pytest
from conftest import tiny_processor
from data_rows import GENERAL, PUBLISHED, published, video_r1, write
from PIL import Image

from zipr1.data.media import MediaError, MissingMedia
from zipr1.data.processor import prepare
from zipr1.data.rows import open_rows, order

cache, root = data_rows.cache, data_rows.root  # fixtures


def test_published_rows(root):
    rows = open_rows(video_r1(root), max_frames=4)
    examples = [rows.example(i) for i in range(len(rows))]
    assert [example.problem_type for example in examples] == [row[1] for row in PUBLISHED]
    assert [example.answer for example in examples] == [row[3] for row in PUBLISHED]
    asked = "Question {}?\nOptions:\n{}\n{}\nAnswer with the letter of the right option only."
    assert examples[0].question == asked.format(0, "A. red", "B. blue")
    assert examples[1].question == asked.format(1, "A) left", "B) right")
    assert (
        examples[3].question
        == "Question 3?\nAnswer with the text as it is written, and nothing else."
    )
    assert examples[0].image.size == (64, 48) and examples[0].frames is None
    assert [np.asarray(frame).mean() for frame in examples[1].frames] == [
        0,
        80,
        150,
        230,
    ]  # frames 0, 8, 15, 23 of 24
    assert examples[1].image is None and examples[1].fps == pytest.approx(3 / (23 / 8))
    assert (
        examples[0].columns["solution"] == "<answer>A</answer>"
        and examples[0].columns["data_source"] == "CLEVR"
    )


def test_thinking_is_an_option(root):
    question = open_rows(video_r1(root), think=True).example(2).question
    assert (
        question.startswith("Question 2?\nAnswer with the number only.\nThink first")
        and "</think>" in question
    )


def test_the_media_root_may_lie_elsewhere(root, tmp_path_factory):
    file = write(tmp_path_factory.mktemp("elsewhere") / "rows.json", [published(0, *PUBLISHED[0])])
    assert open_rows(file, str(root)).example(0).image.size == (64, 48)
    with pytest.raises(MissingMedia, match=r"row 0: .*red\.png: no such file"):
        open_rows(file).example(0)


def check_general(rows) -> None:
    blue, pair, clip, text = (rows.example(i) for i in range(4))
    assert (
        blue.question == "Which colour?"
        and blue.image.size == (96, 48)
        and blue.columns["level"] == 1
    )
    assert [picture.size for picture in pair.images] == [(96, 48), (64, 48)] and pair.image is None
    assert len(clip.frames) == 8 and clip.all_images == ()
    assert text.all_images == () and text.frames is None
    assert [example.problem_type for example in (blue, pair, clip, text)] == [
        "exact",
        "exact",
        "exact",
        "numerical",
    ]
    # Images, a video and bare text in one batch: the pads of each row are those of its own images.
    processor = tiny_processor()
    batch = prepare(processor, [blue, pair, clip, text])
    pads = (
        (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        .sum(-1)
        .tolist()
    )
    of_each = (batch["image_grid_thw"].prod(-1) // 4).tolist()
    assert len(of_each) == 3 and pads == [of_each[0], sum(of_each[1:]), 0, 0]
    assert of_each[0] == of_each[1] > of_each[2] and len(batch["video_grid_thw"]) == 1


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_any_columns(root, name):
    check_general(open_rows(write(root / name, GENERAL), max_frames=8))


@pytest.mark.parametrize("kind", ["parquet", "save_to_disk"])
def test_media_inside_the_table(root, kind):
    """As on the hub: images and videos as bytes."""
    picture = datasets.Image()
    features = {
        "prompt": datasets.Value("string"),
        "image": picture,
        "images": datasets.List(picture),
    }
    features |= {
        "video": datasets.Features(
            {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
        )
    }
    features |= {name: datasets.Value("string") for name in ("answer", "problem_type")} | {
        "level": datasets.Value("int64")
    }

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
    rows = open_rows(
        write(
            root / "mixed.json", [{"prompt": "?", "answer": 3}, {"prompt": "?", "answer": "three"}]
        )
    )
    assert [rows.example(i).answer for i in range(2)] == ["3", "three"]
    with pytest.raises(ValueError, match="row 0: column 'answer' is None: give a text"):
        open_rows(write(root / "none.json", [{"prompt": "?", "answer": None}])).example(0)


def test_a_chat_as_prompt(root):
    system, user = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which colour?"},
    )
    parts = [
        {"type": "text", "text": "First"},
        {"type": "image"},
        {"type": "text", "text": "then"},
        {"type": "image"},
    ]
    rows = [
        {"prompt": [system, user], "image": "pictures/red.png", "answer": "red"},
        {
            "prompt": [{"role": "user", "content": parts}],
            "images": ["pictures/red.png", "pictures/blue.png"],
            "answer": "x",
        },
        {
            "prompt": [{"role": "user", "content": parts}],
            "image": "pictures/red.png",
            "answer": "x",
        },
        {
            "prompt": [user, {"role": "assistant", "content": "Red."}],
            "image": "pictures/red.png",
            "answer": "x",
        },
    ]
    texts = []
    for i, row in enumerate(
        rows[:2]
    ):  # datasets takes a column for text or for parts, not for both
        example = open_rows(write(root / f"rows{i}.json", [row])).example(0)
        ids = prepare(tiny_processor(), [example])["input_ids"][0]
        pads = tiny_processor().tokenizer.convert_tokens_to_ids(["<|image_pad|>"])[0]
        kept = [
            token for j, token in enumerate(ids.tolist()) if token != pads or ids[j - 1] != pads
        ]
        texts.append(tiny_processor().tokenizer.decode(kept))
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert (
        "Be brief.<|im_end|>" in texts[0] and f"user\n{picture}Which colour?<|im_end|>" in texts[0]
    )
    assert f"First{picture}then{picture}<|im_end|>" in texts[1]
    with pytest.raises(
        ValueError,
        match=r"row 0: column 'prompt' names \['image', 'image'\], the row has \['image'\]",
    ):
        open_rows(write(root / "rows2.json", rows[2:3])).example(0)
    with pytest.raises(
        ValueError, match="row 0: column 'prompt' is a chat that does not end with the user"
    ):
        open_rows(write(root / "rows3.json", rows[3:])).example(0)
    with pytest.raises(ValueError, match="a chat needs a chat template"):
        prepare(
            tiny_processor().tokenizer,
            [
                open_rows(
                    write(root / "rows4.json", [{"prompt": [system, user], "answer": "x"}])
                ).example(0)
            ],
            raw=True,
        )


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        (
            [{"content": "Be brief."}, {"role": "user", "content": "?"}],
            "message 0 of column 'prompt' is {'content': 'Be brief.",
        ),
        (
            ["Which colour?", "Red?"],
            r"message 0 of column 'prompt' is 'Which colour\?': give it a role",
        ),
        (
            [{"role": "user", "content": ["Which colour?"]}],
            r"message 0 of column 'prompt' holds \['Which colour\?'\]",
        ),
        (
            [{"role": "user", "content": {"text": "?"}}],
            "message 0 of column 'prompt' holds {'text': '\\?'}",
        ),
        ([{"role": "user", "content": [{"type": "sound"}]}], "parts of type text, image"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a part of type text without its text"),
        ([], "does not end with the user"),
    ],
)
def test_what_is_no_chat_is_named(root, prompt, word):
    rows = open_rows(write(root / "rows.json", [{"prompt": prompt, "answer": "x"}]))
    with pytest.raises(ValueError, match="row 0: .*" + word):
        rows.row(0)


def test_columns_of_a_wrong_type_are_named(root):
    rows = [
        published(0, *PUBLISHED[0]) | {"options": "A. red"},
        published(1, *PUBLISHED[0]) | {"problem_type": ["OCR"]},
    ]
    for number, (row, word) in enumerate(
        zip(rows, ("column 'options' is 'A. red'", "column 'problem_type'"), strict=True)
    ):
        with pytest.raises(ValueError, match=f"row {number}: {word}"):
            open_rows(write(root / f"rows{number}.json", [row])).row(0)
    row = published(2, *PUBLISHED[0]) | {"path": "x" * 5000}  # a picture as base64, say
    with pytest.raises(MissingMedia, match=r"row 2: .*no such file"):
        open_rows(write(root / "rows2.json", [row])).example(0)


def test_splits_and_configurations_are_named_as_datasets_does(root):
    rows = [{"prompt": str(i), "answer": "x"} for i in range(10)]
    file = write(root / "rows.json", rows)
    assert len(open_rows(file)) == 10
    assert [
        open_rows(f"{file}[{split}]").row(0).example.question
        for split in ("train[3:]", "train[-20%:]")
    ] == ["3", "8"]
    saved = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows), "val": datasets.Dataset.from_list(rows[:4])}
    )
    saved.save_to_disk(root / "saved")
    saved["val"].save_to_disk(root / "one")
    assert [len(open_rows(f"{root}/{name}")) for name in ("saved", "saved[val]", "one")] == [
        10,
        4,
        4,
    ]
    hub = root / "hub"  # a folder as the hub has it
    hub.mkdir()
    (hub / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: easy\n  data_files:\n  - {split: train, path: a.jsonl}\n"
        "  - {split: test, path: b.jsonl}\n"
        "- config_name: hard\n  data_files:\n  - {split: train, path: b.jsonl}\n---\n"
    )
    write(hub / "a.jsonl", rows[:2])
    write(hub / "b.jsonl", rows[2:5])
    assert [
        len(open_rows(f"{hub}:{name}"))
        for name in ("easy", "easy[test]", "hard", "hard[train[:1]]")
    ] == [2, 3, 3, 1]
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
    assert (
        all(sorted(epoch) == list(range(n)) for epoch in epochs)
        and epochs[0] != epochs[1] != epochs[2]
    )
    assert [order(rows, seed=1)(i) for i in (13, 2)] == [
        epochs[2][1],
        epochs[0][2],
    ]  # a resumed run draws the same
    assert [order(rows, seed=2)(i) for i in range(n)] != epochs[0]


def test_broken_media_are_named(root):
    whole = (root / "clips/grey.mkv").read_bytes()
    (root / "clips/cut.mkv").write_bytes(whole[: len(whole) // 2])
    (root / "pictures/half.png").write_bytes((root / "pictures/red.png").read_bytes()[:60])
    Image.new("RGB", (9, 9)).save(
        root / "moves.gif", save_all=True, append_images=[Image.new("RGB", (9, 9), "red")]
    )
    paths = [
        ("video", "clips/cut.mkv"),
        ("image", "pictures/half.png"),
        ("image", "moves.gif"),
        ("image", "clips/grey.mkv"),
    ]
    rows = open_rows(
        video_r1(
            root,
            *(published(i, kind, "OCR", [], "x", path) for i, (kind, path) in enumerate(paths, 6)),
        )
    )
    words = [
        r"row 6: .*cut\.mkv: cut short",
        r"row 7: .*half\.png: broken image",
        r"row 8: .*moves\.gif: 2 frames",
        r"row 9: .*grey\.mkv: not an image",
    ]
    for index, word in enumerate(words, 6):
        with pytest.raises(MediaError, match=word):
            rows.example(index)
