"""`zipr1 demo` replaces the trainings of an earlier demo, and nothing else."""

import json

import pytest
from command_line import run

from zipr1.lab.demo import clear

OLD = {"demo": {"questions": 4}, "train": {}, "commit": "abc"}


@pytest.mark.parametrize("preset", ["paper", "exact"])
@pytest.mark.parametrize(
    "config", [None, "{}", "[]", '{"kind": "train", "version": 1, "demo": 1, "train": 1}']
)
def test_a_folder_that_is_not_of_a_demo_is_refused(capsys, tmp_path, preset, config):
    (tmp_path / preset).mkdir()
    (tmp_path / preset / "thesis.tex").write_text("years of work")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    status, out, err = run(capsys, "demo", "--output_dir", str(tmp_path))
    assert status == 2 and out == "" and "Traceback" not in err
    assert f"{tmp_path / preset}: not of an earlier `zipr1 demo`" in err
    assert (tmp_path / preset / "thesis.tex").read_text() == "years of work"


def test_a_broken_config_is_named(capsys, tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "config.json").write_text('{"kind": "de')
    status, _, err = run(capsys, "demo", "--output_dir", str(tmp_path))
    assert status == 2 and "config.json: not JSON" in err and (tmp_path / "paper").is_dir()


@pytest.mark.parametrize("config", [OLD, OLD | {"kind": "demo", "version": 1}])
def test_the_trainings_of_an_earlier_demo_are_replaced(tmp_path, config):
    for name in ("paper", "exact", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config))
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes"]


@pytest.mark.parametrize("flags", [("--curve", "abc"), ("--curve", ""), ("--questions", "0")])
def test_bad_options_are_named(capsys, tmp_path, flags):
    status, _, err = run(capsys, "demo", "--output_dir", str(tmp_path / "out"), *flags)
    assert status == 2 and f"{flags[0][2:]}=" in err and not (tmp_path / "out").exists()
