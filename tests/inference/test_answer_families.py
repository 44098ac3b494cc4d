"""`zipr1 answer` takes every vision family, here as small random models."""

import json

import pytest
from command_line import run
from family_folders import IMAGES_ONLY, PLACEHOLDERS, write_family
from media_files import orange_corner, write_video
from PIL import Image


@pytest.fixture(scope="module", params=sorted(PLACEHOLDERS))
def folder(request, tmp_path_factory):
    path = write_family(request.param, tmp_path_factory.mktemp(request.param))
    for number in (0, 1):
        Image.fromarray(orange_corner()).rotate(90 * number).save(path / f"{number}.png")
    write_video(path / "a.mp4", 12)
    return path


def answer(capsys, folder, *arguments: str) -> tuple[int, dict, str]:
    command = ("answer", *arguments, "--model", str(folder), "--max_new_tokens", "4", "--p", "0.8")
    status, out, error = run(capsys, *command, "--json")
    return status, json.loads(out) if status == 0 else {}, error


def test_answers_about_images_and_about_text(capsys, folder):
    files = [str(folder / name) for name in ("0.png", "1.png")]
    for arguments in ([files[0]], files, []):
        status, found, error = answer(capsys, folder, *arguments, "What is this?", "--compare")
        assert status == 0, error
        assert 0 < found["token_ratio"] < 1 and found["full"]["answer"]
        mixed = folder.name.startswith(("gemma3", "qwen3_5"))
        assert found["sparse_layers"] == ([1, 3] if mixed else [0, 1, 2, 3])
        assert len(found["kept_tokens_per_layer"]) == len(found["sparse_layers"])


def test_answers_about_a_video(capsys, folder):
    status, found, error = answer(capsys, folder, str(folder / "a.mp4"), "What?", "--system", "Be.")
    if folder.name.startswith(IMAGES_ONLY):
        assert status == 2 and "Processor takes no videos" in error
    else:
        assert status == 0 and 0 < found["token_ratio"] < 1, error


def test_kept_tokens_are_drawn_where_they_have_places(capsys, folder):
    picture = str(folder / "kept.png")
    status, _, error = answer(capsys, folder, str(folder / "0.png"), "What?", "--picture", picture)
    if folder.name.startswith(("qwen", "glm")):
        assert status == 0 and Image.open(picture).size[0] > 0, error
    else:
        assert status == 2 and "does not say where its visual tokens lie" in error
