"""`zipr1 eval` and lmms-eval take every vision family, here as small random models."""

import json

import pytest
from command_line import run
from conftest import family_processor, random_model
from family_folders import IMAGES_ONLY, PLACEHOLDERS, write_family
from lmms_requests import ask, image, video
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.evaluation.lmms_model import ZipR1
from zipr1.models.families import VISION_FAMILIES
from zipr1.models.loading import load_vision
from zipr1.models.saving import save

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=[*QWEN, *sorted(PLACEHOLDERS)])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    if request.param in PLACEHOLDERS:
        return write_family(request.param, path)
    save(random_model(request.param), family_processor(request.param), path)
    return path


def test_every_vision_family_is_here():
    assert {*QWEN, *PLACEHOLDERS} == set(VISION_FAMILIES)


def test_eval_measures_images_and_videos(capsys, folder, tmp_path):
    videos = not folder.name.startswith(IMAGES_ONLY)
    flags = ("--questions", "2", "--threads", "1", "--p", "0.8", "--json")
    command = ("eval", str(folder), *flags, "--output_dir", str(tmp_path), "--tasks")
    status, out, error = run(capsys, *command, "shapes,motion" if videos else "shapes")
    assert status == 0, error
    full, zipvl = json.loads(out)
    assert full["token_ratio"] == 1 and 0 < zipvl["token_ratio"] < 1
    assert list(zipvl["per_task"]) == (["shapes", "motion"] if videos else ["shapes"])
    if not videos:
        status, _, error = run(capsys, *command, "motion")
        assert status == 2 and "Processor takes no videos" in error


def test_lmms_answers_about_images_and_videos(folder):
    model = ZipR1(pretrained=str(folder), p=0.8, device="cpu", batch_size=2)
    pictures = [Image.new("RGB", (96, 96), colour) for colour in ("red", "blue")]
    both = ask(model, *map(image, pictures))
    assert all(text and 0 < ratio < 1 for text, ratio, _ in both)
    single = [ask(model, image(picture))[0] for picture in pictures]
    assert [text for text, _, _ in both] == [text for text, _, _ in single]
    for one, other in zip(both, single, strict=True):
        assert one[1] == pytest.approx(other[1], abs=1e-6)
    file = folder / "moving.gif"
    pictures[0].save(file, save_all=True, append_images=pictures[1:] * 3, duration=200)
    if folder.name.startswith(IMAGES_ONLY):
        with pytest.raises(InputError, match="Processor takes no videos"):
            ask(model, video(str(file)))
    else:
        ((text, ratio, _),) = ask(model, video(str(file)))
        assert text and 0 < ratio < 1


def test_downsample_needs_a_grid(capsys, folder, tmp_path):
    flags = ("--tasks", "shapes", "--questions", "2", "--threads", "1", "--json")
    command = ("eval", str(folder), *flags, "--methods", "full,downsample", "--ratio", "0.5")
    status, out, error = run(capsys, *command, "--output_dir", str(tmp_path))
    if folder.name.startswith(("qwen", "glm")):
        assert status == 0 and json.loads(out)[1]["token_ratio"] < 0.95, error
    else:
        assert status == 2 and "downsample and fewer_frames need a model of" in error
        assert not (tmp_path / "answers").exists()


def test_the_defaults_are_those_the_model_was_trained_for(capsys, tmp_path):
    trained = {"p": 0.7, "choice": "accumulated", "scope": "layer"}
    save(*load_vision("zipr1/tiny"), tmp_path / "model", trained)
    rows = {}
    for name, more in {
        "default": (),
        "spelled out": ("--p", "0.7", "--scope", "layer"),
        "other": ("--p", "0.9", "--scope", "attention"),
    }.items():
        out = str(tmp_path / name)
        flags = ("--tasks", "shapes", "--questions", "4", "--threads", "1", "--methods", "zipvl")
        command = ("eval", str(tmp_path / "model"), *flags, *more, "--output_dir", out, "--json")
        (rows[name],) = json.loads(run(capsys, *command)[1])
    assert rows["default"] == rows["spelled out"] and rows["default"]["p"] == 0.7
    assert rows["other"]["p"] == 0.9
    assert rows["other"]["token_ratio"] > rows["default"]["token_ratio"]
