"""Values of flags and recipes are those that a person reads in them."""

import pytest
from command_line import run

from zipr1.cli.main import parse
from zipr1.common.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("1_000", 1000), ("+7", 7), ("0x10", None), ("1:30", None), ("0b1", None),
     ("#", None), ("", None), ("1e3", None), ("99999999999999999999", None)],
)  # fmt: skip
def test_numbers_are_decimal(tmp_path, text, value):
    """YAML 1.1 reads 010 as 8, 0x10 as 16 and 1:30 as 90; a comment is no value."""
    path = tmp_path / "a.yaml"
    path.write_text(f"max_steps: {text}\n")
    for arguments in (["train", "--max_steps", text], ["train", str(path)]):
        if value is None:
            with pytest.raises(InputError, match="max_steps: "):
                parse(arguments)
        else:
            assert parse(arguments)[1].max_steps == value


def test_texts_that_look_like_numbers_survive_print_config(capsys, tmp_path):
    path = tmp_path / "a.yaml"
    for text in ("1e5", "010", "0x10", "1:30", "null", "yes", "2026-01-01", "1_0"):
        status, out, _ = run(capsys, "train", f"--output_dir={text}", "--print_config")
        path.write_text(out)
        assert status == 0 and parse(["train", str(path)])[1].output_dir == text


def test_a_recipe_given_twice_is_refused(capsys):
    status, _, error = run(capsys, "bench", "train", "tiny_demo", "--recipe", "tiny_zipr1")
    assert status == 2 and "is given by position as well" in error
