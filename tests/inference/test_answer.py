"""`zipr1 answer`: what it takes, in which order the model sees it, and what it refuses when."""

import base64
import io
import json
import sys

import av
import numpy as np
import pytest
from command_line import run
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.inference import answer as module
from zipr1.inference.config import AnswerConfig
from zipr1.inference.prompt import Prompt, read_prompt
from zipr1.models.loading import load_processor
from zipr1.tasks import TASKS

QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """a.png and b.png, the scenes of a task, and c.mkv, a video of another."""
    folder = tmp_path_factory.mktemp("media")
    for index, name in enumerate("ab"):
        TASKS["shapes"].example("test", index).image.save(folder / f"{name}.png")
    frames = TASKS["motion"].example("test", 0).frames
    with av.open(str(folder / "c.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=4)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return folder


def asked(capsys, *arguments: str) -> dict:
    status, out, err = run(capsys, "answer", *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def prompt_of(*arguments, **settings) -> Prompt:
    return read_prompt(
        AnswerConfig(arguments[-1], [str(one) for one in arguments[:-1]], **settings)
    )


def test_files_are_shown_in_their_order(media):
    prompt = prompt_of(media / "a.png", media / "c.mkv", media / "b.png", "What differs?")
    processor = load_processor("zipr1/tiny")
    text = processor.tokenizer.decode(prompt.inputs(processor)["input_ids"][0])
    marks = [text.find(mark) for mark in ("<|image_pad|>", "<|video_pad|>", "What differs?")]
    assert marks == sorted(marks) and marks[0] > 0
    assert text.rfind("<|image_pad|>") > text.rfind("<|video_pad|>")
    assert prompt.media[0].tobytes() == Image.open(media / "a.png").convert("RGB").tobytes()
    assert prompt.media[2].tobytes() == Image.open(media / "b.png").convert("RGB").tobytes()


def test_each_file_adds_its_tokens(capsys, media):
    a, b = str(media / "a.png"), str(media / "b.png")
    one, two = asked(capsys, a, QUESTION), asked(capsys, a, b, QUESTION)
    side = Image.open(a).width // 16  # visual tokens of a row
    assert two["tokens"] == one["tokens"] + side * side + 2  # and the marks around an image


@pytest.mark.parametrize("form", ["path", "file", "data", "stdin"])
def test_one_image_however_it_is_named(capsys, media, monkeypatch, form):
    path = media / "a.png"
    expected = asked(capsys, str(path), QUESTION)
    content = base64.b64encode(path.read_bytes()).decode()
    names = {
        "path": str(path),
        "file": path.as_uri(),
        "data": f"data:image/png;base64,{content}",
        "stdin": "-",
    }
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert asked(capsys, names[form], QUESTION) == expected


def test_the_question_comes_from_standard_input(capsys, media, monkeypatch):
    expected = asked(capsys, str(media / "a.png"), QUESTION)
    for start in ("", "\ufeff"):  # a byte order mark, as editors write
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((start + QUESTION).encode())))
        assert asked(capsys, str(media / "a.png"), "-") == expected


def test_text_alone_and_a_system_prompt(capsys):
    alone, system = (
        asked(capsys, "Say a word.", *more) for more in ((), ("--system", "Be brief."))
    )
    assert alone["token_ratio"] > 0 and system["tokens"] > alone["tokens"] - 10
    processor = load_processor("zipr1/tiny")
    prompt = prompt_of("Say a word.", system="Be brief.")
    text = processor.tokenizer.decode(prompt.inputs(processor)["input_ids"][0])
    assert text.index("system") < text.index("Be brief.") < text.index("Say a word.")


def test_kept_tokens_are_drawn_over_every_file(capsys, media, tmp_path):
    out = tmp_path / "kept.png"
    files = [str(media / name) for name in ("a.png", "c.mkv")]
    asked(capsys, *files, QUESTION, "--picture", str(out), "--p", "0.5")
    page = np.asarray(Image.open(out).convert("L"))
    pairs = len(TASKS["motion"].example("test", 0).frames) // 2
    rows = -(-(1 + pairs) // 2)
    side = 4 * Image.open(files[0]).width  # enlarged; the frames of the video are smaller
    assert page.shape[1] == 2 * side and rows * side < page.shape[0] < (rows + 1) * side
    assert page[:side, :side].std() > 10 and page[:side, side:].std() > 5


def test_placeholders_are_the_places_of_the_files(media):
    files = [media / "a.png", media / "c.mkv"]
    prompt = prompt_of(*files, "Is <image> in <video>?")
    assert prompt.chat[-1]["content"] == [
        {"type": "text", "text": "Is "}, {"type": "image"}, {"type": "text", "text": " in "},
        {"type": "video"}, {"type": "text", "text": "?"},
    ]  # fmt: skip
    before = prompt_of(files[0], "<image>\nWhat?"), prompt_of(files[0], "What?")
    assert before[0].chat == before[1].chat
    with pytest.raises(
        InputError, match="names video, image, the files are image, video: name each"
    ):
        prompt_of(*files, "Is <video> after <image>?")
    question = "What does the tag <image> do?"  # without a file it is a text as any other
    assert prompt_of(question).chat[-1]["content"] == [{"type": "text", "text": question}]
    assert prompt_of(files[0], "Is it that of b.png").chat  # a question may end in a file's name


def test_a_file_upright_as_its_camera_says(media, tmp_path):
    image = Image.open(media / "a.png").convert("RGB").crop((0, 0, 96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by a quarter
    image.save(tmp_path / "phone.png", exif=exif)
    assert prompt_of(tmp_path / "phone.png", "What?").media[0].size == (64, 96)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["none.png", "What?"], "none.png: no such file"),
        (["{a}", "none.png", "What?"], "none.png: no such file"),
        (["{a}", "{broken}", "What?"], "broken.png: broken image"),
        (["{text}", "What?"], "text.png: an HTML page"),
        (["https://example.org/a.png", "What?"], "media are not fetched"),
        (["data:image/png;base64,AAAA", "What?"], "data:image/png"),
        (["-", "What?"], "standard input"),
        (["-", "-"], "standard input can be read once"),
        (["-"], "standard input: the question is empty"),
        (["{a}"], "a.png: a file without a question"),
        (["gone.mp4"], "gone.mp4: a file without a question"),
        (["my photo.png"], "my photo.png: a file without a question"),
        (["Describe photo.jpg"], "Describe photo.jpg: a file without a question"),
        (["{a}", "none.png"], "none.png: a file without a question"),
        (["{folder}", "What?"], "{folder}: a folder; give the files in it"),
        (["{a}", "<image> and <image>?"], "the question names image, image, the files are image"),
        (["{a}", "<video>What?"], "the question names video, the files are image"),
        (["  "], "the question is empty"),
        (["{a}", ""], "the question is empty"),
        (["Why?", "--picture", "kept.png"], "needs an image or a video"),
        (["{a}", "Why?", "--picture", "kept.xyz"], "kept.xyz: not an image format"),
        (["{a}", "Why?", "--p", "1.5"], "p=1.5"),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_model_is_loaded(
    capsys, media, tmp_path, monkeypatch, arguments, word
):
    (tmp_path / "broken.png").write_bytes((media / "a.png").read_bytes()[:300])
    (tmp_path / "text.png").write_text("<html>404</html>")
    places = {name: tmp_path / f"{name}.png" for name in ("broken", "text")}
    places |= {"a": media / "a.png", "folder": media}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    loads = []
    monkeypatch.setattr(module, "load", loads.append)
    status, out, err = run(capsys, "answer", *(one.format(**places) for one in arguments))
    word = word.format(**places)
    assert (status, out, loads) == (2, "", []) and word in err and err.count("\n") == 1
