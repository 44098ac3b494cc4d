"""The model class inside lmms-eval, called as lmms-eval calls it: media of every kind, the defaults
of a trained model, and answers that outlive the process."""

import json
import re
from io import BytesIO

import datasets
import numpy as np
import pytest
from lmms_requests import ask, ask_rows, image, video
from PIL import Image, ImageFile

from zipr1.common.errors import InputError
from zipr1.data.source import MediaError
from zipr1.evaluation.lmms_model import ZipR1
from zipr1.models.loading import load_vision
from zipr1.models.saving import save


def frame(i: int) -> Image.Image:
    image = Image.new("RGB", (96, 96), "white")
    image.paste((200, 30 * i, 20), (8 * i, 16, 8 * i + 40, 56))
    return image


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Files with one image, or several that an image viewer plays."""
    folder = tmp_path_factory.mktemp("media")
    first, *rest = [frame(i) for i in range(4)]
    first.save(folder / "still.gif")
    first.save(folder / "still.png")
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    moving = {"save_all": True, "append_images": rest, "duration": 200}
    for name in ("moving.gif", "moving.webp", "moving.png"):
        first.save(folder / name, **moving)
    (folder / "broken.gif").write_bytes((folder / "moving.gif").read_bytes()[:200])
    see_through = first.convert("RGBA")
    see_through.putalpha(0)
    see_through.save(folder / "transparent.png")
    return folder


@pytest.fixture(scope="module")
def model():
    return ZipR1(p=0.8, max_frames=4, device="cpu")


@pytest.mark.parametrize("name", ["moving.gif", "moving.png"])
def test_an_animation_is_a_video_whatever_the_task_calls_it(model, media, name):
    path = str(media / name)
    called_image, called_video = ask(model, image(path), video(path))
    assert called_image == called_video and called_image[2] == name
    for source in (path, BytesIO((media / name).read_bytes())):  # as `datasets` opens images
        with Image.open(source) as opened:
            (opened_image,) = ask(model, image(opened))
        assert opened_image[:2] == called_video[:2]


def test_one_image_in_a_format_that_could_move_is_an_image(model, media):
    gif, png, opened = ask(
        model,
        image(str(media / "still.gif")),
        image(str(media / "still.png")),
        image(Image.open(media / "still.png")),
    )
    assert png[:2] == opened[:2] and 0 < gif[1] < 1


def test_what_is_transparent_is_white(model, media):
    with Image.open(media / "transparent.png") as opened:
        found, white = ask(model, image(opened), image(Image.new("RGB", (96, 96), "white")))
    assert found[:2] == white[:2]


@pytest.mark.parametrize("truncated_allowed", [False, True])
@pytest.mark.parametrize("name", ["broken.gif", "missing.png"])
def test_media_that_cannot_be_read_are_named(model, media, name, truncated_allowed, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated_allowed)
    with pytest.raises((ValueError, OSError), match=re.escape(name)):
        ask(model, image(str(media / name)))


@pytest.mark.parametrize("place", ["path", "opened", "data set"])
def test_truncated_images_are_refused_although_lmms_eval_allows_them(
    model, media, place, monkeypatch
):
    """Importing its tasks makes Pillow fill them with grey, for the whole process."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (media / "half.png").write_bytes((media / "noise.png").read_bytes()[:9000])
    if place == "data set":  # as `datasets` decodes a column of images
        rows = datasets.Dataset.from_dict({"image": [str(media / "half.png")]})
        rows = rows.cast_column("image", datasets.Image())
        with pytest.raises(MediaError, match="t, question 0: its media cannot be read"):
            ask_rows(model, rows)
    else:
        url = str(media / "half.png")
        with pytest.raises(MediaError, match="broken image"):
            ask(model, image(url if place == "path" else Image.open(url)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_part_of_a_video_is_refused(model, media):
    part = [{"type": "video", "url": str(media / "moving.gif"), "start_time": 0.5}]
    with pytest.raises(InputError, match="only text, images and whole videos"):
        ask(model, part)


def test_the_defaults_are_those_the_model_was_trained_for(tmp_path):
    settings = {"p": 0.7, "choice": "accumulated", "scope": "layer"}
    save(*load_vision("zipr1/tiny"), tmp_path, settings)
    trained = ZipR1(pretrained=str(tmp_path), device="cpu")
    assert (trained.rule.p, trained.rule.choice, trained.scope) == tuple(settings.values())
    given = ZipR1(pretrained=str(tmp_path), p=0.9, scope="attention", device="cpu")
    assert (given.rule.p, given.rule.choice, given.scope) == (0.9, "accumulated", "attention")
    (tmp_path / "zipr1.json").write_text('{"scope": "word"}')
    with pytest.raises(InputError, match=r"zipr1\.json: scope="):
        ZipR1(pretrained=str(tmp_path), device="cpu")


def test_answers_outlive_the_process(tmp_path, media):
    file = tmp_path / "answers.jsonl"
    arguments = {"p": 0.8, "max_frames": 4, "device": "cpu", "answers": str(file)}
    questions = [image(str(media / "still.png")), video(str(media / "moving.gif"))]
    first = ask(ZipR1(**arguments), *questions)
    header, *lines = file.read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [text for text, _, _ in first]
    # Killed while the second was written; the first is not asked again.
    changed = json.dumps(json.loads(lines[0]) | {"text": "from the file"})
    file.write_text(f"{header}\n{changed}\n{lines[1][:30]}")
    second = ask(ZipR1(**arguments), *questions)
    assert second == [("from the file", *first[0][1:]), first[1]]
    assert file.read_text() == f"{header}\n{changed}\n{lines[1]}\n"
    with pytest.raises(InputError, match="holds answers of another p;"):
        ZipR1(**arguments | {"p": 0.9})
    file.write_text("{}\n")
    with pytest.raises(InputError, match="not a file of answers"):
        ZipR1(**arguments)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"max_frames": 0}, "max_frames=0"),
        ({"method": "pyramid"}, "'pyramid': expected one of"),
        ({"p": 2}, "p=2"),
        ({"pretrained": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_bad_arguments_are_named(arguments, word):
    with pytest.raises((ValueError, OSError), match=re.escape(word)):
        ZipR1(device="cpu", **arguments)
