"""The text-only priors of tiny13 are of the questions that its models answer."""

import pytest

from zipr1.evaluation.config import EvalConfig
from zipr1.lab import tiny13
from zipr1.tasks import ALL_TASKS, text_only_prior
from zipr1.tasks.base import Scene, Task


class Toy(Task):
    """Train scenes are red; of each four validation scenes three are, of each four test scenes one."""

    name = "shapes"

    def scene(self, split: str, index: int) -> Scene:
        red = {"train": 4, "val": 3, "test": 1}[split]
        answer = "red" if index % 4 < red else "blue"
        return Scene(f"{split}/{index}", (("What colour is it?", answer),), None)


@pytest.mark.parametrize(("split", "expected"), [("val", 0.75), ("test", 0.25)])
def test_a_prior_is_that_of_the_split(monkeypatch, split, expected):
    monkeypatch.setitem(ALL_TASKS, "shapes", Toy())
    config = EvalConfig("zipr1/tiny", suite="tiny13", split=split, questions=8)
    assert tiny13.prior("shapes", config) == expected


def test_the_prior_is_that_of_the_test_split_by_default():
    assert text_only_prior(Toy(), 8) == 0.25
