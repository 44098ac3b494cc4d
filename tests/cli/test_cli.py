"""The commands as a user types them: what they print, and how they refuse."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields

import av
import numpy as np
import pytest
from command_line import run
from conftest import random_model, tiny_processor
from PIL import Image

from zipr1.bench.config import BenchConfig, BenchTrainConfig
from zipr1.cli.parser import help_of
from zipr1.evaluation.config import EvalConfig
from zipr1.inference.config import AnswerConfig
from zipr1.lab.config import DemoConfig, PretrainConfig
from zipr1.models.location import EMBEDDED
from zipr1.report.config import ReportConfig
from zipr1.tasks import TASKS
from zipr1.training.config import TrainConfig
from zipr1.training.data_check_config import DataCheckConfig
from zipr1.training.plan_config import PlanConfig


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "shapes.png"
    TASKS["shapes"].example("test", 0).image.save(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "motion.mkv"
    frames = TASKS["motion"].example("test", 0).frames
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=4)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return path


def test_answer_about_a_picture(capsys, picture, tmp_path):
    out = tmp_path / "kept.png"
    flags = ("--picture", str(out), "--json", "--compare")
    status, text, _ = run(capsys, "answer", str(picture), "What colour is the circle?", *flags)
    result = json.loads(text)
    assert status == 0
    layers = len(result["kept_tokens_per_layer"])
    assert result["token_ratio"] == pytest.approx(
        sum(result["kept_tokens_per_layer"]) / layers / result["tokens"]
    )
    per_token = 2 * 2 * 32 * 4  # keys and values, 2 heads of 32, 4 bytes
    assert result["kv_bytes_kept"] == per_token * sum(result["kept_tokens_per_layer"])
    assert (
        result["kv_bytes_kept"] + result["kv_bytes_saved"] == per_token * layers * result["tokens"]
    )
    assert result["full"]["kept_tokens_per_layer"] == [result["tokens"]] * layers
    drawn = np.asarray(Image.open(out))
    assert drawn[:480].std() > 10 and Image.open(out).width >= 480


def test_the_picture_is_dark_where_every_layer_dropped(capsys, picture, tmp_path):
    brightness = []
    for p in ("1.0", "0.3"):
        out = tmp_path / f"{p}.png"
        run(
            capsys,
            "answer",
            str(picture),
            "What colour is the circle?",
            "--picture",
            str(out),
            "--p",
            p,
        )
        brightness.append(np.asarray(Image.open(out).convert("L"))[:480].mean())
    assert brightness[1] < 0.7 * brightness[0]


def test_answer_about_a_clip_for_a_person(capsys, clip, tmp_path):
    out = tmp_path / "kept.png"
    status, text, _ = run(
        capsys, "answer", str(clip), "Which way does the circle move?", "--picture", str(out)
    )
    assert (
        status == 0 and "token ratio" in text and "kept per layer" in text and "bytes kept" in text
    )
    assert Image.open(out).width == 2 * 480  # a contact sheet, four pairs of frames in two columns


def test_a_page_for_each_layer(capsys, picture, tmp_path):
    out = tmp_path / "kept.gif"
    flags = ("--picture", str(out), "--p", "0.5", "--json")
    _, text, _ = run(capsys, "answer", str(picture), "What colour is the circle?", *flags)
    kept = json.loads(text)["kept_tokens_per_layer"]
    assert Image.open(out).n_frames == 1 + len(kept)


def test_eval_prints_the_table(capsys, tmp_path):
    flags = (
        "--questions",
        "4",
        "--tasks",
        "shapes,motion",
        "--output_dir",
        str(tmp_path),
        "--threads",
        "1",
    )
    status, text, _ = run(
        capsys,
        "eval",
        "zipr1/tiny",
        "--methods",
        "full,zipvl,topk",
        "--curve",
        "0.9,0.99",
        "--json",
        *flags,
    )
    rows = json.loads(text)
    assert status == 0 and [row["method"] for row in rows] == ["full", "zipvl", "topk"]
    assert ["difference" in row for row in rows] == [False, True, True]
    assert (
        rows[0]["token_ratio"] == 1
        and 0.1 < rows[1]["token_ratio"] < 1
        and 0.25 <= rows[2]["token_ratio"] < 0.27
    )
    for row in rows:
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["accuracy"] == pytest.approx(sum(row["per_task"].values()) / 2)
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").open()]
    assert len(records) == 24 and records[0]["id"].startswith("shapes/test/0/")
    assert {
        "task",
        "id",
        "method",
        "p",
        "answer",
        "right",
        "token_ratio",
        "layer_ratios",
    } <= records[0].keys()
    saved = json.loads((tmp_path / "table.json").read_text())
    assert saved["rows"] == rows and saved["versions"]["transformers"] and saved["commit"]
    table, points = (tmp_path / "table.md").read_text().split("\n\nThe curve (zipvl):\n\n")
    assert len(table.splitlines()) == 5 and len(points.splitlines()) == 4
    curve = json.loads((tmp_path / "curve.json").read_text())["curves"]["mean"]["zipr1/tiny"]
    assert curve[0]["token_ratio"] < curve[1]["token_ratio"]
    assert (tmp_path / "curve.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("answer", AnswerConfig),
        ("bench", BenchConfig),
        ("bench train", BenchTrainConfig),
        ("data check", DataCheckConfig),
        ("demo", DemoConfig),
        ("eval", EvalConfig),
        ("plan", PlanConfig),
        ("pretrain", PretrainConfig),
        ("report", ReportConfig),
        ("train", TrainConfig),
    ],
)
def test_every_option_has_a_help_text(capsys, command, settings):
    """The string below its field, which is a sentence."""
    status, text, _ = run(capsys, *command.split(), "--help")
    told = help_of(settings)
    assert status == 0
    for field in fields(settings):
        assert told[field.name][0].isalpha() and told[field.name].endswith("."), field.name
        assert re.sub(r"\s", "", told[field.name]) in re.sub(r"\s", "", text), (
            field.name
        )  # wrapped anywhere


def text_model(folder):
    random_model("llama").save_pretrained(folder)
    tiny_processor().tokenizer.save_pretrained(folder)
    return folder


def torn_model(folder):
    """A download that broke off."""
    shutil.copytree(EMBEDDED["zipr1/tiny"], folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    return folder


def other_family(folder):
    shutil.copytree(EMBEDDED["zipr1/tiny"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "vocab_size": config["text_config"]["vocab_size"]})
    )
    return str(folder)


RECIPES = {
    "typed": "max_steps: many\n",
    "listed": "- 1\n",
    "small": "lora_r: 1e-3\n",
    "plain": "seed: 3\n",
    "open": "tasks: [\n",
}


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        ([], 2, "error: name a command: answer, "),
        (["traim"], 2, "error: traim: no such command; did you mean train? (the commands: answer,"),
        (["data", "chekc"], 2, "data chekc: no such command; did you mean data check?"),
        (
            ["eval"],
            2,
            "required: model; `zipr1 eval --help` lists the options\n",
        ),
        (["answer", "none.png", "What?"], 2, "none.png: no such file"),
        (["answer", "{broken}", "What?"], 2, "broken.png"),
        (["answer", "{picture}", "  "], 2, "question is empty"),
        (["answer", "{picture}", "What?", "--p", "1.5"], 2, "p=1.5"),
        (["answer", "{picture}", "What?", "--p", "0"], 2, "p=0"),
        (
            ["answer", "{picture}", "What?", "--model", "{other}"],
            2,
            "'gpt2' is not supported; use one of qwen2_vl",
        ),
        (["answer", "{picture}", "What?", "--model", "{text}"], 2, "takes no images"),
        (["eval", "{text}"], 2, "takes no images"),
        (["eval", "{torn}"], 2, "weights cannot be read"),
        (["eval", "zipr1/tiny", "--questions", "0"], 2, "questions=0"),
        (["eval", "zipr1/tiny", "--batch_size", "0"], 2, "batch_size=0"),
        (["train", "--temperature", "0"], 2, "temperature=0"),
        (["train", "--tasks", "[]"], 2, "name at least one"),
        (["train", "--threads", "0"], 2, "threads=0"),
        (["demo", "--questions", "0"], 2, "questions=0"),
        (["answer", "{picture}", "What?", "--max_frames", "0"], 2, "max_frames=0"),
        (["answer", "{picture}", "What?", "--picture", "kept.xyz"], 2, "kept.xyz"),
        (
            ["answer", "{picture}", "What?", "--model", "no/such/folder"],
            2,
            "neither a model folder nor a hub id",
        ),
        (["answer", "{picture}", "{long}"], 2, "4096 positions"),
        (["answer", "{picture}", "What?", "--bogus", "1"], 2, "--bogus: no such option\n"),
        (["train", "--maxsteps=2"], 2, "--maxsteps: no such option; did you mean --max_steps?\n"),
        (
            ["data", "check", "rows.json", "--media-rot", "."],
            2,
            "--media_rot: no such option; did you mean --media_root?\n",
        ),
        (["bench", "train", "--step=2"], 2, "--step: no such option; did you mean --steps?\n"),
        (["eval", "{run}"], 2, "run/final\n"),
        (
            ["train", "{recipe}"],
            2,
            "recipe.yaml: max_stepz: no such setting; did you mean max_steps?\n",
        ),
        (
            ["demo", "--recipe", "{recipe}"],
            2,
            "recipe.yaml: max_stepz: no such setting; did you mean max_steps?\n",
        ),
        (
            ["train", "--config={recipe}"],
            2,
            "recipe.yaml: max_stepz: no such setting; did you mean max_steps?\n",
        ),
        (["train", "{picture}.yaml"], 2, "no such recipe"),
        (["train", "recipe"], 2, "error: recipe: no such recipe;"),
        (["bench", "train", "recipe"], 2, "error: recipe: no such recipe;"),
        (["train", "--beta", "high"], 2, "error: --beta: high: input should be a valid number"),
        (["train", "{typed}"], 2, "typed.yaml: max_steps: many: input should be a valid integer\n"),
        (
            ["train", "{typed}", "--beta=high"],
            2,
            "typed.yaml: max_steps: many: input should be a valid integer\n",
        ),
        (
            ["demo", "--recipe", "{typed}"],
            2,
            "typed.yaml: max_steps: many: input should be a valid integer\n",
        ),
        (
            ["eval", "zipr1/tiny", "--suite", "tiny14"],
            2,
            "--suite: tiny14: input should be 'paper' or 'tiny13'\n",
        ),
        (
            ["bench", "train", "--steps", "x"],
            2,
            "error: --steps: x: input should be a valid integer",
        ),
        (
            ["bench", "train", "--steps", "x", "--config", "{listed}"],
            2,
            "listed.yaml: not a recipe",
        ),
        (
            ["data", "check", "rows.json", "--max_frames", "x", "--config={listed}"],
            2,
            "listed.yaml: not a recipe",
        ),
        (
            ["train", "{plain}", "--max_steps", "null"],
            2,
            "error: --max_steps: null: input should be a valid integer\n",
        ),
        (
            ["train", "{plain}", "--seed", "x"],
            2,
            "error: --seed: x: input should be a valid integer",
        ),
        (
            ["train", "{plain}", "--tasks", "[1]"],
            2,
            "error: --tasks[0]: 1: input should be a valid string\n",
        ),
        (["train", "{small}"], 2, "small.yaml: lora_r: 0.001: input should be a valid integer"),
        (["train", "{open}"], 2, "open.yaml: not a YAML file (while parsing a flow node expected"),
        (["train", "--json", "my.yaml"], 2, "error: my.yaml: no such recipe;"),
        (["train", "{plain}", "my.yaml"], 2, "unrecognized arguments: my.yaml; `zipr1 train"),
        (["bench", "--tokens", "x"], 2, "tokens=x: expected numbers with commas between them"),
        (
            ["pretrain", "--stages.steps", "x"],
            2,
            "--stages.steps: no such option; did you mean --stages?\n",
        ),
        (["train", "--config", "{broken}"], 2, "broken.png"),
        (["train", "none.yaml"], 2, "none.yaml"),
        (["train", "--tasks", "[shapes,golf]"], 2, "golf"),
        (["eval", "zipr1/tiny", "--methods", "full,magic"], 2, "magic"),
        (["eval", "zipr1/tiny", "--tasks", "golf"], 2, "golf"),
        (["demo", "--recipe", "none.yaml"], 2, "none.yaml"),
        (
            ["answer", "{picture}", "What?", "--model", "owner/none"],
            2,
            "owner/none: there is no such folder",
        ),
    ],
)
def test_bad_input_is_refused_with_a_word(capsys, tmp_path, picture, arguments, status, word):
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:300])
    (tmp_path / "recipe.yaml").write_text("seed: 3\nmax_stepz: 1\n")
    for name, text in RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    folders = {"other": other_family, "text": text_model, "torn": torn_model}
    places = {
        "broken": tmp_path / "broken.png",
        "picture": picture,
        "recipe": tmp_path / "recipe.yaml",
        "long": "why " * 5000,
    }
    (tmp_path / "run" / "final").mkdir(parents=True)
    (tmp_path / "run" / "final" / "config.json").write_text("{}")
    places |= {"run": tmp_path / "run"} | {name: tmp_path / f"{name}.yaml" for name in RECIPES}
    places |= {
        name: make(tmp_path / name) for name, make in folders.items() if f"{{{name}}}" in arguments
    }
    got, out, err = run(capsys, *(argument.format(**places) for argument in arguments))
    assert (
        got == status
        and word in err
        and "Traceback" not in err
        and "usage:" not in err
        and out == ""
    )


def test_the_installed_command_works():
    done = subprocess.run(
        [sys.executable, "-m", "zipr1.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and all(
        name in done.stdout
        for name in ("answer", "train", "eval", "bench", "demo", "pretrain", "report")
    )


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("answer", "[files ...] question"),  # a question alone is enough
        ("report", "runs ..."),
        ("play", "model"),
        ("serve", "model -- vllm arguments"),
        ("bench serve", "[model]"),
        ("bench", ""),
    ],
    ids=lambda text: text.split()[0] if text else "none",
)
def test_the_usage_says_what_may_be_left_out(capsys, command, arguments):
    status, out, _ = run(capsys, *command.split(), "--help")
    usage = out.split("\n\n")[0]
    expected = f"usage: zipr1 {command} [recipe] [options] {arguments}".split()
    assert status == 0 and usage.split() == expected
