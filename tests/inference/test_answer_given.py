"""`zipr1 answer`: files and questions that look like something else, and where the picture goes."""

import io
import json
import os
import sys

import pytest
from command_line import run
from PIL import Image

from zipr1.common import overlay
from zipr1.inference import answer as module
from zipr1.inference.config import AnswerConfig
from zipr1.inference.prompt import read_prompt

SHORT = ("--max_new_tokens", "2")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with red.png, blue.png, link.png (to red.png), afile and photos/."""
    for name in ("red", "blue"):
        Image.new("RGB", (64, 64), name).save(tmp_path / f"{name}.png")
    (tmp_path / "link.png").symlink_to("red.png")
    (tmp_path / "afile").write_text("x")
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def refused(capsys, monkeypatch, *arguments: str) -> str:
    """The message; no model was loaded."""
    loads = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "load", loads.append)
        status, out, err = run(capsys, "answer", *arguments)
    assert (status, out, loads) == (2, "", []) and err.count("\n") == 1, (status, out, err)
    return err


@pytest.mark.parametrize(
    ("files", "question"),
    [
        (["red.png"], "What is in this picture? <image>"),
        (["red.png", "blue.png"], "Compare <image> with <image>"),
        (["red.png", "blue.png"], "<image 2> and\n<image 1>"),
        (["red.png"], "<image>"),
    ],
)
def test_a_question_that_ends_in_a_file(capsys, monkeypatch, folder, files, question):
    status, out, err = run(capsys, "answer", *files, question, "--json", *SHORT)
    assert status == 0, err
    captions = []
    draw = overlay.kept_pages
    monkeypatch.setattr(
        module, "kept_pages", lambda *given: (captions.append(given[2]), draw(*given))[1]
    )
    status, drawn, err = run(
        capsys, "answer", *files, question, "--json", *SHORT, "--picture", "kept.png"
    )
    assert status == 0, err
    assert json.loads(drawn) == json.loads(out) | {"picture": "kept.png"}
    assert captions[0].startswith(question) and Image.open("kept.png").width > 64


def test_the_picture_never_replaces_a_file_of_the_question(capsys, monkeypatch, folder):
    content = (folder / "red.png").read_bytes()
    os.link("red.png", "hard.png")
    names = ("red.png", "./red.png", str(folder / "red.png"), "link.png", "hard.png")
    for name in names:
        for files in (["red.png"], ["blue.png", "red.png"], [f"file://{folder}/red.png"]):
            err = refused(capsys, monkeypatch, *files, "Why?", "--picture", name)
            assert f"--picture {name}: one of the files of the question" in err
    with open("red.png") as opened:
        monkeypatch.setattr(sys, "stdin", opened)
        assert "one of the files" in refused(
            capsys, monkeypatch, "-", "Why?", "--picture", "red.png"
        )
    assert (folder / "red.png").read_bytes() == content
    status, _, err = run(capsys, "answer", "red.png", "Why?", "--picture", "blue.png", *SHORT)
    assert status == 0, err  # an earlier picture may be written again


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("kept.blp", "not an image format that can be written in colour"),
        ("kept.xbm", "not an image format that can be written in colour"),
        ("kept.msp", "not an image format that can be written in colour"),
        ("kept.palm", "not an image format that can be written in colour"),
        ("kept.bufr", "not an image format that can be written in colour"),
        ("kept.wmf", "not an image format that can be written in colour"),
        ("kept.svg", "not an image format that can be written in colour"),
        ("kept", "not an image format that can be written in colour"),
        ("photos", "a folder; give the name of a file in it"),
        ("dir.png", "a folder; give the name of a file in it"),
        ("afile/k.png", "its folder afile cannot be made (a file)"),
        ("afile/new/k.png", "its folder afile/new cannot be made"),
    ],
)
def test_a_picture_that_cannot_be_written(capsys, monkeypatch, folder, name, word):
    (folder / "dir.png").mkdir()
    assert word in refused(capsys, monkeypatch, "red.png", "Why?", "--picture", name)


@pytest.mark.parametrize("suffix", ["png", "JPG", "gif", "webp", "pdf", "tif", "bmp", "ico", "jp2"])
def test_pictures_that_are_written(capsys, folder, suffix):
    status, _, err = run(
        capsys, "answer", "red.png", "Why?", "--picture", f"new/a.{suffix}", *SHORT
    )
    assert status == 0 and (folder / f"new/a.{suffix}").stat().st_size > 500, err


def test_a_picture_too_large_for_its_format(capsys, folder):
    """WebP ends at 16383 pixels; the answer is not lost."""
    Image.new("RGB", (200, 16500), "red").save("tall.png")
    for form in ((), ("--json",)):
        status, out, err = run(
            capsys, "answer", "tall.png", "Why?", "--picture", "a.webp", *SHORT, *form
        )
        assert status == 1 and "--picture a.webp: could not be written" in err
        assert (json.loads(out)["token_ratio"] > 0) if form else ("token ratio" in out)
        assert not (folder / "a.webp").exists()


@pytest.mark.parametrize(
    "text",
    [
        "photo.avif", "photo.heif", "clip.m4v", "clip.mpg", "a.jfif", "a.jxl", "clip.ts", "a.svg",
        "scan.pdf", "song.mp3", "my clip.m4v", "https://x.y/p.jpg?w=1", "https://x.y/p",
        "s3://bucket/p", "data:image/png;base64,iVBORw0KGgo=", "data:,", "file:///nope/p", "FILE:/p",
        "photos/", "./photos",
    ],
)  # fmt: skip
def test_a_file_without_a_question(capsys, monkeypatch, folder, text):
    assert "a file without a question" in refused(capsys, monkeypatch, text)
    if " " not in text:
        assert "a file without a question" in refused(capsys, monkeypatch, "red.png", text)


def test_questions_that_look_like_files(folder):
    for question in (
        "photos", "What is a .ts file?", "Who wrote main.ts", "What is https://x.y/p.jpg?",
        "data: what is it?", "3.14", "e.g. this", "What is in report.pdf", "A/B testing?",
        "data:what?",
    ):  # fmt: skip
        assert AnswerConfig(question).question == question


def test_long_addresses_are_shortened(capsys, monkeypatch):
    err = refused(capsys, monkeypatch, "data:image/png;base64," + "A" * 5000)
    assert len(err) < 400


@pytest.mark.parametrize("content", ["what é".encode("latin-1"), "what".encode("utf-16"), b"\xff"])
def test_a_question_that_is_no_utf8(capsys, monkeypatch, folder, content):
    for files in ([], ["red.png"]):
        stdin(monkeypatch, content)
        err = refused(capsys, monkeypatch, *files, "-")
        assert "standard input: the question is not UTF-8" in err


def test_standard_input_without_anything(capsys, monkeypatch, folder):
    stdin(monkeypatch, b"")
    assert "standard input: empty; pipe an image" in refused(capsys, monkeypatch, "-", "What?")
    stdin(monkeypatch, b"\xef\xbb\xbf\n")
    assert "the question is empty" in refused(capsys, monkeypatch, "red.png", "-")
    monkeypatch.setattr(sys, "stdin", None)  # as after <&-
    assert "standard input: empty" in refused(capsys, monkeypatch, "-", "What?")
    assert "the question is empty" in refused(capsys, monkeypatch, "red.png", "-")


def test_bytes_that_are_no_characters(capsys, monkeypatch, folder):
    err = refused(capsys, monkeypatch, "red.png", "a\ud800b")
    assert "the question has '\\ud800' at position 1" in err
    err = refused(capsys, monkeypatch, "What?", "--system", "\udcff")
    assert "--system has '\\udcff' at position 0" in err


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("~/p.png", "no such file; leave the ~ outside the quotes"),
        ("*.png", "no such file; a pattern is not expanded here"),
        ("frames/%04d.png", "no such file; a pattern is not expanded here"),
        ("gone.png", "no such file; check the path\n"),
        ("file:///gone.png", "/gone.png: no such file; check the path\n"),
    ],
)
def test_missing_files(capsys, monkeypatch, folder, name, word):
    assert word in refused(capsys, monkeypatch, name, "What?")
    assert word in refused(capsys, monkeypatch, "red.png", name, "What?")


def test_a_file_named_like_a_pattern(folder):
    Image.new("RGB", (64, 64)).save("a[1]*.png")
    assert len(read_prompt(AnswerConfig("What?", ["a[1]*.png"])).media) == 1


def colours(prompt) -> list[str]:
    names = {(255, 0, 0): "red", (0, 0, 255): "blue"}
    return [names[one.getpixel((0, 0))] for one in prompt.media if isinstance(one, Image.Image)]


def test_numbered_placeholders_are_places_of_files(folder):
    prompt = read_prompt(AnswerConfig("Is <image 2> as\n<image_1>\nred?", ["red.png", "blue.png"]))
    assert colours(prompt) == ["blue", "red"]
    assert prompt.chat[-1]["content"] == [
        {"type": "text", "text": "Is "}, {"type": "image"}, {"type": "text", "text": " as"},
        {"type": "image"}, {"type": "text", "text": "red?"},
    ]  # fmt: skip
    frames = [Image.new("RGB", (64, 64), (value, 0, 0)) for value in (10, 200)]
    frames[0].save("v.gif", save_all=True, append_images=frames[1:], duration=500)
    files = ["red.png", "v.gif", "blue.png"]
    for question in ("<image 2><video><image 1>", "<image 2><video 1><image 1>"):
        prompt = read_prompt(AnswerConfig(question, files))
        assert colours(prompt) == ["blue", "red"]
        assert [part["type"] for part in prompt.chat[-1]["content"]] == ["image", "video", "image"]


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("<image 2>", "the question names <image 2>, the files are image: name each file once"),
        ("<image 1> or <image 1>", "the question names <image 1>, <image 1>, the files are image"),
        ("<image 1> or <image>", "the question names <image 1>, image, the files are image"),
        ("<image 0>", "the question names <image 0>"),
        ("<video 1>", "the question names <video 1>, the files are image"),
        ("what? <audio>", "the question has '<audio>': audio is not read"),
        ("what <Image>?", "the question has '<Image>': write <image> or <video> at its place"),
        ("<|image|> what?", "the question has '<|image|>': write <image>"),
        ("<image> what </image>?", "the question has '</image>': write <image>"),
    ],
)
def test_placeholders_that_fit_no_file(capsys, monkeypatch, folder, question, word):
    assert word in refused(capsys, monkeypatch, "red.png", question)
    assert read_prompt(AnswerConfig(question)).question == question  # without a file: a text


def test_placeholders_in_the_system_prompt(capsys, monkeypatch, folder):
    for text in ("Look at <image>.", "<image 1>", "<audio>"):
        err = refused(capsys, monkeypatch, "red.png", "What?", "--system", text)
        assert "--system has a placeholder of a file: write it in the question" in err
        assert read_prompt(AnswerConfig("What?", system=text)).chat
