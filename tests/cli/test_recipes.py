"""The recipes for Qwen-VL on Video-R1: what each loads, and where its values come from."""

import re
from pathlib import Path

import pytest

from zipr1.cli.main import parse
from zipr1.training.data_check_config import DataCheckConfig

RECIPES = Path(__file__).parents[2] / "zipr1" / "recipes"
MODELS = ["qwen_vl"]


@pytest.mark.parametrize("name", [*MODELS, "qwen_paper", "qwen_sparsity_forcing"])
def test_each_value_is_followed_by_its_source(name):
    lines = (RECIPES / f"{name}.yaml").read_text().splitlines()
    assert [line for line in lines if not re.match(r"#|\w+: \S+ +# \S", line)] == []


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("objective", "gate"), [("qwen_paper", "none"), ("qwen_sparsity_forcing", "group")]
)
def test_the_published_objectives_go_over_a_models_recipe(name, objective, gate):
    recipe = str(RECIPES / f"{name}.yaml")
    own = parse(["train", recipe])[1]
    config = parse(["train", recipe, "--config", str(RECIPES / f"{objective}.yaml")])[1]
    assert (
        config.objective.gate,
        config.objective.efficiency_reward,
        config.objective.sparsity_weight,
    ) == (gate, 1.0, 0.0)
    assert (config.objective.kl, config.objective.beta, config.dense_share) == (
        "sampled",
        0.04,
        0.0,
    )
    changed = {"preset", "gate", "baseline", "dense_share"}
    assert {
        field for field, value in vars(config).items() if value != getattr(own, field)
    } <= changed
    assert (
        config.model == own.model
        and config.max_pixels == 401408
        and config.video_max_pixels == 128 * 28 * 28
    )


def test_a_recipe_says_what_the_check_checks():
    config = DataCheckConfig(
        "rows.json", recipe=str(RECIPES / "qwen_vl.yaml"), max_frames=4
    ).training()
    assert (config.data, config.model, config.max_pixels) == (
        "rows.json",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        401408,
    )
    assert (config.max_frames, config.media_root, config.max_completion_length) == (
        4,
        "Video-R1-data",
        64,
    )
