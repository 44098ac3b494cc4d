"""zipr1.json: checked in one place, read from folders and hubs, and the default of every command."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import run
from conftest import tiny_processor
from hub_cache import publish
from PIL import Image

import zipr1
from zipr1.common.errors import InputError
from zipr1.models.location import EMBEDDED
from zipr1.models.settings import TrainedSettings, trained_settings

SETTINGS = {"p": 0.8, "choice": "accumulated", "scope": "layer"}


@pytest.fixture
def trained(tmp_path):
    """The embedded model as if it had been trained for other settings than the default ones."""
    folder = Path(shutil.copytree(EMBEDDED["zipr1/tiny"], tmp_path / "trained"))
    (folder / "zipr1.json").write_text(json.dumps({"rule": "TopP"} | SETTINGS))
    return folder


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.effect_mandelbrot((128, 128), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(path)
    return path


BROKEN = {
    "[]": "must hold a JSON object",
    "null": "must hold a JSON object",
    "1.5": "must hold a JSON object",
    "{": "not valid JSON",
    "": "not valid JSON",
    '{"version": 2}': "version=2: written by a later",
    '{"version": "1"}': 'version="1": must be a positive integer',
    '{"scope": "everything"}': "scope=\"everything\": must be 'attention' or 'layer'",
    '{"scope": null}': "scope=null: must be",
    '{"scope": ["layer"]}': "scope=",
    '{"choice": "random"}': "choice=",
    '{"rule": "TopQ"}': "rule=",
    '{"p": "0.9"}': 'p="0.9": must be a number in',
    '{"p": 0}': "p=0: must be a number in",
    '{"p": NaN}': "p=NaN",
    '{"p": true}': "p=true",
    '{"p": [0.9]}': "p=",
    '{"step": 1.5}': "step=1.5: must be an integer",
    '{"base": 3}': "base=3: must be a string",
    '{"treshold": 0.9}': "'treshold' is not a known key; use rule, p",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_refused_with_file_and_key(trained, text):
    (trained / "zipr1.json").write_text(text)
    with pytest.raises(InputError) as error:
        trained_settings(trained)
    message = str(error.value)
    assert message.startswith(f"{trained / 'zipr1.json'}: ") and BROKEN[text] in message
    assert "\n" not in message


def test_every_command_refuses_a_broken_file(trained, image, capsys):
    (trained / "zipr1.json").write_text("[]")
    for command in (["answer", str(image), "What?", "--model"], ["eval"]):
        status, out, err = run(capsys, *command, str(trained))
        assert (status, out) == (2, "") and "zipr1.json" in err and "Traceback" not in err


def test_a_model_without_the_file_has_the_defaults():
    assert trained_settings("zipr1/tiny") == TrainedSettings(p=0.975, scope="attention")


def test_an_old_file_without_a_version_is_read(trained):
    assert trained_settings(trained) == TrainedSettings(**SETTINGS)


def test_what_save_writes_is_what_is_read(tmp_path):
    model, _ = zipr1.load("zipr1/tiny")
    settings = SETTINGS | {"rule": "TopP", "preset": "exact", "base": "zipr1/tiny", "step": 7}
    zipr1.save(model, tiny_processor(), tmp_path, settings)
    assert trained_settings(tmp_path) == TrainedSettings(**settings)
    assert json.loads((tmp_path / "zipr1.json").read_text()) == settings | {"version": 1}


@pytest.mark.parametrize("wrong", [{"p": 2}, {"scope": "all"}, {"lr": 1.0}])
def test_save_writes_no_file_that_cannot_be_read(tmp_path, wrong):
    model, _ = zipr1.load("zipr1/tiny")
    with pytest.raises(InputError, match=next(iter(wrong))):
        zipr1.save(model, tiny_processor(), tmp_path, wrong)
    assert not (tmp_path / "zipr1.json").exists()


def measured(model, inputs, settings: TrainedSettings) -> float:
    rule = zipr1.TopP(settings.p, settings.choice)
    with torch.no_grad(), zipr1.sparse(model, rule, scope=settings.scope) as trace:
        model(**inputs)
    return trace.token_ratio.item()


def test_answer_uses_p_choice_and_scope_of_the_training(trained, image, capsys):
    """Each of the three changes the token ratio; options override them."""
    from zipr1.data.example import Example
    from zipr1.data.media import read_media
    from zipr1.data.processor import prepare

    model, processor = zipr1.load(trained)
    inputs = prepare(processor, [Example("a", "", "What is it?", "", **read_media(str(image), 1))])
    command = ["answer", str(image), "What is it?", "--model", str(trained), "--json"]
    ratios = set()
    for flags, settings in (
        ([], TrainedSettings(**SETTINGS)),
        (["--p", "0.6"], TrainedSettings(**SETTINGS | {"p": 0.6})),
        (["--scope", "attention"], TrainedSettings(**SETTINGS | {"scope": "attention"})),
    ):
        status, out, _ = run(capsys, *command, *flags)
        found = json.loads(out)
        assert status == 0 and found["p"] == settings.p
        assert found["token_ratio"] == pytest.approx(measured(model, inputs, settings), abs=1e-6)
        ratios.add(found["token_ratio"])
    normalised = TrainedSettings(**SETTINGS | {"choice": "normalised"})
    ratios.add(measured(model, inputs, normalised))
    assert len(ratios) == 4


def test_eval_uses_them_too(trained, tmp_path, capsys):
    flags = ["--tasks", "shapes", "--questions", "4", "--methods", "zipvl", "--json"]
    found = {}
    for name, more in (
        ("trained", [str(trained)]),
        ("flags", [str(trained), "--p", "0.8", "--scope", "layer"]),
        ("other", ["zipr1/tiny", "--p", "0.8", "--scope", "layer"]),
        ("default", ["zipr1/tiny"]),
    ):
        folder = ["--output_dir", str(tmp_path / name)]
        status, out, err = run(capsys, "eval", *more, *flags, *folder)
        assert status == 0, err
        found[name] = json.loads(out)[0]
    assert found["trained"]["p"] == 0.8 and found["default"]["p"] == 0.975
    assert found["trained"]["token_ratio"] == found["flags"]["token_ratio"]
    assert found["trained"]["token_ratio"] != found["other"]["token_ratio"]  # another choice


def test_settings_come_from_a_hub_id_too(trained, tmp_path, monkeypatch):
    publish(tmp_path / "cache", "someone/model", trained, "main")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert trained_settings("someone/model") == TrainedSettings(**SETTINGS)
    (trained / "zipr1.json").write_text('{"p": 3}')
    publish(tmp_path / "cache", "someone/model", trained, "v2")
    assert trained_settings("someone/model", revision="main").p == 0.8
    with pytest.raises(InputError, match=r"zipr1\.json: p=3"):
        trained_settings("someone/model", revision="v2")
