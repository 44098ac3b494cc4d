"""An empty text, as an unset variable of the shell gives one, is refused before the work."""

import pytest
from command_line import run

from zipr1.cli.main import parse
from zipr1.common.errors import InputError
from zipr1.evaluation.config import EvalConfig
from zipr1.training.config import TrainConfig


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("eval zipr1/tiny --data", "data"),
        ("eval zipr1/tiny --output_dir", "output_dir"),
        ("eval zipr1/tiny --suite paper --trained", "trained"),
        ("eval", "model"),
        ("data check", "file"),
        ("data check rows.json --write", "write"),
        ("data check rows.json --recipe", "recipe"),
        ("answer a.png question --picture", "picture"),
        ("train --probe_data", "probe_data"),
        ("bench --output_dir", "output_dir"),
        ("bench train --recipe", "recipe"),
        ("demo --output_dir", "output_dir"),
        ("pretrain tiny_pretrain --start", "start"),
        ("plan --shape", "shape"),
        ("report a --output", "output"),
        ("serve zipr1/tiny --host", "host"),
        ("play", "model"),
    ],
)
def test_an_empty_value(capsys, tmp_path, monkeypatch, words, name):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *words.split(), "", "--print_config")
    assert (status, out) == (2, "") and f"{name}='': empty; give a value" in err
    assert ("leave it out" in err) == (name not in ("model", "file"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["train --config", "data check rows.json --config", "train"])
def test_an_empty_name_of_a_recipe(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *words.split(), "", "--print_config")
    assert status == 2 and "the name of a recipe is empty" in err


def test_an_empty_value_in_a_recipe_and_from_python(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data: ''\n")
    with pytest.raises(InputError, match=r"^data='': empty; give a value, or leave it out$"):
        parse(["train", str(path)])
    for settings in (
        lambda: TrainConfig(data="", probe_data=""),
        lambda: EvalConfig("zipr1/tiny", media_root=" "),
    ):
        with pytest.raises(InputError, match=r"=' ?': empty; "):
            settings()


def test_an_empty_system_prompt_replaces_that_of_the_template():
    assert parse(["answer", "What?", "--system", ""])[1].system == ""
