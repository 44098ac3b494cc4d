"""`zipr1 demo` measures with the scores that its recipe trains with."""

import pytest

from zipr1.evaluation.evaluate import evaluate
from zipr1.evaluation.generation import GenerationSettings
from zipr1.evaluation.statistics import table_row
from zipr1.lab.config import DemoConfig
from zipr1.lab.demo import curve_rows, table_records
from zipr1.models.loading import load_vision
from zipr1.sparsity.rules import TopP
from zipr1.tasks import examples_of
from zipr1.training.config import TrainConfig

MODEL = "zipr1/tiny"
DEMO = DemoConfig(questions=2, curve_questions=2, curve="0.8")


def measured(choice: str) -> tuple[float, float]:
    """The token ratios of the table and of the curve."""
    recipe = TrainConfig(tasks=["shapes"], p=0.8, choice=choice)
    records = table_records(MODEL, "zipvl", DEMO, recipe)
    (point,) = curve_rows(MODEL, DEMO, recipe)
    return table_row("", records).token_ratio, point.token_ratio


@pytest.mark.parametrize("choice", ["accumulated", "normalised"])
def test_the_recipe_chooses_the_scores(choice):
    examples = examples_of(["shapes"], "test", 2)
    quiet = GenerationSettings(quiet=True)
    expected = {
        name: table_row(
            "", evaluate(*load_vision(MODEL), examples, TopP(0.8, name), "", quiet)
        ).token_ratio
        for name in ("accumulated", "normalised")
    }
    assert expected["accumulated"] != expected["normalised"]
    assert measured(choice) == (expected[choice], expected[choice])


def test_dense_attention_has_no_scores():
    recipe = TrainConfig(tasks=["shapes"], choice="accumulated")
    assert table_row("", table_records(MODEL, "full", DEMO, recipe)).token_ratio == 1
