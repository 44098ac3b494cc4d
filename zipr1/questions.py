"""Which questions a step asks: a function of the seed and of their numbers in the run."""

from collections.abc import Sequence

from zipr1.config import TrainConfig
from zipr1.tasks import TASKS
from zipr1.tasks.base import Example


def questions(numbers: Sequence[int], step: int, config: TrainConfig) -> list[Example]:
    """The training questions number `numbers` of the run.

    A step is all pictures or all clips, each as often as its share of the tasks: a clip's prompt is twice as long, and
    padding the pictures to it would cost half the time. Tasks take turns within their kind.
    """
    kinds = [TASKS[name].clip for name in config.tasks]
    clip = sorted(kinds)[step % len(kinds)]
    names = [name for name, kind in zip(config.tasks, kinds, strict=True) if kind == clip]
    # Pretraining has seen the first scenes of the train split; these are others.
    first = 5_000_000 + config.seed * 1_000_000
    return [TASKS[names[i % len(names)]].example("train", first + i) for i in numbers]
