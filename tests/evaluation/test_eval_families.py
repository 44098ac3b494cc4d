"""`zipr1 eval` and lmms-eval take every vision family, here as small random models."""

import json

import pytest
from command_line import run
from conftest import family_processor, random_model
from lmms_requests import ask, image
from PIL import Image

from zipr1.evaluation.lmms_model import ZipR1
from zipr1.models.families import VISION_FAMILIES
from zipr1.models.saving import save


@pytest.fixture(scope="module", params=VISION_FAMILIES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    save(random_model(request.param), family_processor(request.param), path)
    return path


def test_eval_measures_images_and_videos(capsys, folder, tmp_path):
    flags = ("--tasks", "shapes,motion", "--questions", "2", "--threads", "1", "--p", "0.8")
    status, out, _ = run(
        capsys, "eval", str(folder), *flags, "--json", "--output_dir", str(tmp_path)
    )
    full, zipvl = json.loads(out)
    assert status == 0 and full["token_ratio"] == 1 and 0 < zipvl["token_ratio"] < 1
    assert list(zipvl["per_task"]) == ["shapes", "motion"] and zipvl["questions"] == 4


def test_lmms_answers_about_images(folder):
    model = ZipR1(pretrained=str(folder), p=0.8, device="cpu", batch_size=2)
    pictures = [Image.new("RGB", (96, 96), colour) for colour in ("red", "blue")]
    both = ask(model, *map(image, pictures))
    assert all(text and 0 < ratio < 1 for text, ratio, _ in both)
    single = [ask(model, image(picture))[0] for picture in pictures]
    assert [text for text, _, _ in both] == [text for text, _, _ in single]
    for one, other in zip(both, single, strict=True):
        assert one[1] == pytest.approx(other[1], abs=1e-6)
