"""`zipr1 plan --shape`: published models without a hub, and whether a step fits."""

import json

import pytest
from command_line import run

from zipr1.models.shapes import SHAPES

PUBLISHED = {  # billions of parameters, rounded as on the pages of the hub
    "qwen2-2b": 2.21, "qwen2-7b": 8.29, "qwen2-72b": 73.4, "3b": 3.75, "7b": 8.29, "32b": 33.5,
    "72b": 73.4, "qwen3-2b": 2.13, "qwen3-4b": 4.44, "qwen3-8b": 8.77, "qwen3-32b": 33.4,
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_the_published_number_of_parameters(capsys, shape, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, out, err = run(capsys, "plan", "--shape", shape, "--json")
    assert status == 0, err
    assert json.loads(out)["parameters"] / 1e9 == pytest.approx(PUBLISHED[shape], rel=2e-3)


def test_whether_a_step_fits(capsys):
    flags = ("--shape", "3b", "--use_peft", "true", "--bf16", "true", "--prompts_per_step", "1")
    flags += ("--max_tokens_per_batch", "4096", "--gradient_checkpointing", "true")
    status, out, _ = run(capsys, "plan", *flags)
    assert status == 0 and out.splitlines()[-1] == "fits in 80 GB: yes"
    status, out, _ = run(capsys, "plan", *flags, "--memory", "8")
    assert status == 0 and out.splitlines()[-1] == "fits in 8 GB: no"


def test_an_unknown_shape_is_named(capsys):
    status, _, err = run(capsys, "plan", "--shape", "13b")
    assert status == 2 and "shape=13b: expected one of qwen2-2b" in err


@pytest.mark.parametrize(("size", "shape", "prompt"), [("24", "3b", "2048"), ("80", "7b", "8192")])
def test_the_lora_recipes_fit_the_gpu_they_name(capsys, size, shape, prompt):
    flags = ("--shape", shape, "--prompt", prompt, "--memory", size)
    status, out, err = run(capsys, "plan", "qwen_vl", "--config", f"qwen_lora_{size}gb", *flags)
    assert status == 0 and out.splitlines()[-1] == f"fits in {size} GB: yes", err
    flags = ("--shape", "72b", *flags[2:])
    status, out, _ = run(capsys, "plan", "qwen_vl", "--config", f"qwen_lora_{size}gb", *flags)
    assert status == 0 and out.splitlines()[-1] == f"fits in {size} GB: no"
